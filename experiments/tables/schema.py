"""What a reproduced table is: its panels, their settings and rows, and where the networks come from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from configs.schema import Config, in_fast_settings
from pipeline.endpoints import draw_pair, open_setting
from pipeline.rows import PairContext, open_pair
from reporting.records import Row

LANDSCAPE_FIGURE, CURVE_FIGURE = "landscape.png", "interpolation.png"
RADAR_FIGURE, TASK_VECTORS_FIGURE = "radar.png", "task_vectors.png"
ENSEMBLE = "ensemble"
"""The reference row of all networks side by side: one head for each task."""


@dataclasses.dataclass
class TableConfig(Config):
    """The settings of a table: those of its endpoints, and how its figures are sampled.

    landscape_points: points of the loss landscape along each axis.
    landscape_images: test images it is measured on.
    """

    landscape_points: int = 25
    landscape_images: int = 1000

    def make_fast(self) -> None:
        """Take few images, epochs, pairs and keys, for a first look."""
        in_fast_settings(self)
        self.landscape_points, self.landscape_images = 7, 200


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        name: its name in `results.jsonl`.
        title: what the table calls it.
        method: registry name of the method; None for one of `REFERENCE_ROWS`, or `ENSEMBLE`, named so.
        options: options of the method.
        search: option -> values to choose from: the best average accuracy within the tasks on
            the calibration images, whose labels nothing else sees.
        published: metric -> the published accuracy in percent.
        members: places of the networks that it merges, on the images of their tasks; all if empty.
        real_labels: share of the images that the method sees, all with their real labels, in (0, 1];
            None for all images without labels.
        align: the method by which all networks are brought to A's order of units before; None for none.
        from_start: whether the base of task vectors is where A's training started.
        own_inputs: whether the method is given the images of each network's task apart, as its `inputs`.
    """

    name: str
    title: str
    method: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    search: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    members: tuple[int, ...] = ()
    real_labels: float | None = None
    align: str | None = None
    from_start: bool = False
    own_inputs: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """The data of a panel, loaded, and its endpoint pairs.

    Attributes:
        sha256: checksum of the data.
        notes: what every report made from it must say.
        open_pair: trains or finds the endpoints of a pair.
    """

    sha256: str
    notes: tuple[str, ...]
    open_pair: Callable[[int], PairContext]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A part of a table: the rows that were run on the same endpoints.

    Attributes:
        name: its name, also of its folder inside the table's; empty in a table of one panel.
        title: its heading.
        metrics: its columns.
        entries: its rows.
        get_config: builds its default settings.
        caption: says what was run and how it differs from what was published, in paragraphs, from
            the settings, of the kind that `get_config` builds, and the summary of each row by name.
        open_source: loads its data, from the same settings.
        correction: what follows every merge, see `autofusion_jax.merge`.
        costs: whether to show what each row learned, and its seconds.
        curves: names of the entries whose parents are interpolated in a figure.
        landscape: names of the entries to mark in the loss landscape; none for no landscape.
        fast: names of the entries for a first look; all if empty.
        radar: names of the entries to draw on a radar chart of the tasks; none for no chart.
        task_vectors: whether to draw how alike the task vectors of the networks are.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    entries: tuple[Entry, ...]
    get_config: Callable[[], TableConfig]
    caption: Callable[[Any, Mapping[str, Row]], list[str]]
    open_source: Callable[[Any, Console], Source]
    correction: str | None = None
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
    """A figure of accuracy against a setting, from the records of a table.

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
        """What records call a panel."""
        return f"{self.name}/{panel.name}" if panel.name else self.name


def open_config(config: TableConfig, console: Console) -> Source:
    """The endpoints of a config, as `merge.py` draws and trains them."""
    setting = open_setting(config, console)

    def open_number(number: int) -> PairContext:
        return open_pair(setting, draw_pair(setting, number))

    return Source(setting.dataset.sha256, setting.dataset.notes, open_number)
