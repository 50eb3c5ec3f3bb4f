"""What a reproduced table is: its panels, their settings and rows, and where the networks come from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from autofusion_jax.arguments import integer
from autofusion_jax.evaluation.results import Summary
from configs.schema import Config, in_fast_settings
from fields import field
from pipeline.endpoints import Run
from pipeline.rows import Row

LANDSCAPE_FIGURE, CURVE_FIGURE = "landscape.png", "interpolation.png"
RADAR_FIGURE, TASK_VECTORS_FIGURE = "radar.png", "task_vectors.png"


@dataclasses.dataclass
class TableConfig(Config):
    """The settings of a table: those of its endpoints, and how its figures are sampled.

    landscape_points: points of the loss landscape along each axis.
    landscape_images: test images it is measured on.
    """

    landscape_points: int = field(25, integer(least=2))
    landscape_images: int = field(1000, integer(least=2))

    def make_fast(self) -> None:
        """Take few images, epochs, pairs and keys, for a first look."""
        in_fast_settings(self)
        self.landscape_points, self.landscape_images = 7, 200


@dataclasses.dataclass(frozen=True)
class Panel:
    """A part of a table: the rows that were run on the same endpoints.

    Attributes:
        name: its name, also of its folder inside the table's; empty in a table of one panel.
        title: its heading.
        metrics: its columns.
        rows: its rows.
        get_config: builds its default settings.
        caption: says what was run and how it differs from what was published, in paragraphs, from
            the settings, of the kind that `get_config` builds, and the summary of each row by name.
        open_run: loads its data and builds its model, from the same settings.
        costs: whether to show what each row learned, and its seconds.
        curves: names of the rows whose parents are interpolated in a figure.
        landscape: names of the rows to mark in the loss landscape; none for no landscape.
        fast: names of the rows for a first look; all if empty.
        radar: names of the rows to draw on a radar chart of the tasks; none for no chart.
        task_vectors: whether to draw how alike the task vectors of the networks are.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    get_config: Callable[[], TableConfig]
    caption: Callable[[Any, Mapping[str, Summary]], list[str]]
    open_run: Callable[[Any, Console], Run]
    costs: bool = False
    curves: tuple[str, ...] = ()
    landscape: tuple[str, ...] = ()
    fast: tuple[str, ...] = ()
    radar: tuple[str, ...] = ()
    task_vectors: bool = False


class Point(NamedTuple):
    """One point of a sweep: where it lies, and whose accuracy it is."""

    x: float
    entry: str
    panel: str = ""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A figure of accuracy against a setting, from the results of a table.

    Attributes:
        name: of its file, without `.png`.
        title: its heading.
        x_title: what is on the horizontal axis.
        series: label -> points.
        levels: label -> a row that does not depend on the setting, drawn as a line across.
        log_x: whether the axis is logarithmic.
    """

    name: str
    title: str
    x_title: str
    series: Mapping[str, Sequence[Point]]
    levels: Mapping[str, Point] = dataclasses.field(default_factory=dict)
    log_x: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper, as we reproduce it.

    Attributes:
        name: what `--table` calls it.
        title: its heading.
        panels: its parts.
        sweeps: figures made from all panels.
        overview: heading -> row and variant, shown for all panels side by side.
        overview_metric: what of them is shown.
        fast: names of the panels for a first look; all if empty.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    sweeps: tuple[Sweep, ...] = ()
    overview: Mapping[str, tuple[str, str | None]] = dataclasses.field(default_factory=dict)
    overview_metric: str = "joint"
    fast: tuple[str, ...] = ()

    def label(self, panel: Panel) -> str:
        """What results call a panel."""
        return f"{self.name}/{panel.name}" if panel.name else self.name
