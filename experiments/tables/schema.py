"""What a reproduced table is: its settings, its rows, and where its networks come from."""

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array
from rich.console import Console

from autofusion_jax.models.registry import Model
from autofusion_jax.reporting.records import Row
from autofusion_jax.types import Params
from autofusion_jax.validation import unknown_name
from configs.schema import Config

REFERENCES = ("model_a", "model_b", "ensemble")


@dataclasses.dataclass
class TableConfig(Config):
    """The settings of a table: those of its endpoints, and how its figures are sampled.

    landscape_points: points of the loss landscape along each axis.
    landscape_images: test images it is measured on.
    """

    landscape_points: int = 25
    landscape_images: int = 1000


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        name: its name in `results.jsonl`.
        title: what the table calls it.
        method: registry name of the method; None for one of `REFERENCES`, named so.
        options: options of the method.
        search: option -> values to choose from: the best average accuracy within the tasks on
            the calibration images, whose labels nothing else sees.
        published: metric -> the published accuracy in percent.
    """

    name: str
    title: str
    method: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    search: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """One endpoint pair in memory, with all that the rows of a table need.

    Attributes:
        number: of the pair, from 0.
        seed: its seed.
        model: the networks' function and spec.
        models: their parameters, A first.
        seconds: what their training took.
        tasks: classes of task A and of task B.
        x: the images that merges see.
        y: their labels, for searches alone; `[n]`, or `[2, n]`: one for each task.
        test_x: the test images.
        test_labels: their labels, likewise.
    """

    number: int
    seed: int
    model: Model
    models: tuple[Params, Params]
    seconds: tuple[float, float]
    tasks: tuple[tuple[int, ...], tuple[int, ...]]
    x: Array
    y: np.ndarray
    test_x: Array
    test_labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """The data of a table, loaded, and its endpoint pairs.

    Attributes:
        sha256: checksum of the data.
        notes: what every report made from it must say.
        open_pair: trains or finds the endpoints of a pair.
    """

    sha256: str
    notes: tuple[str, ...]
    open_pair: Callable[[int], Case]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper, as we reproduce it.

    Attributes:
        name: what `--table` calls it.
        title: its heading.
        metrics: its columns, of `ALL_METRICS`.
        entries: its rows.
        get_config: builds its default settings.
        open_source: loads its data.
        caption: says what was run and how it differs from what was published, in paragraphs, from
            the settings and the summary of each row by name.
        correction: what follows every merge, see `autofusion_jax.merge`.
        curves: names of the entries whose parents are interpolated in a figure.
        landscape: names of the entries to mark in the loss landscape; none for no landscape.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    entries: tuple[Entry, ...]
    get_config: Callable[[], TableConfig]
    open_source: Callable[[TableConfig, Console], Source]
    caption: Callable[[TableConfig, Mapping[str, Row]], list[str]]
    correction: str | None = None
    curves: tuple[str, ...] = ()
    landscape: tuple[str, ...] = ()


def override(config: Any, assignment: str) -> None:
    """Set a field of a config by `FIELD.FIELD=VALUE`, in the type of its present value.

    Raises:
        ValueError: no such field, or a value of another type.

    Example:
        >>> from autofusion_jax.training.loop import TrainOptions
        >>> options = TrainOptions()
        >>> override(options, "epochs=7")
        >>> options.epochs
        7
    """
    path, _, text = assignment.partition("=")
    owner, value = config, config
    for name in path.strip().split("."):
        known = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        if name not in known:
            raise unknown_name("--set", "field", name, known)
        owner, value = value, getattr(value, name)
    setattr(owner, name, _parse(path, text, value))


def _parse(path: str, text: str, present: Any) -> Any:
    kind = type(present)
    try:
        value = text if kind is str else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"--set: {path} must be {kind.__name__}, such as {present!r}; got {text!r}.")
    return value
