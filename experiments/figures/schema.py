"""A figure: its configs, its merges, how it is drawn, and what drawing works with."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from rich.console import Console

from autofusion_jax.evaluation.networks import Network
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.plots.canvas import save_figure
from configs.schema import Config
from pipeline.endpoints import Pair, Run
from pipeline.engine import load_networks, report, results_of, run_row
from pipeline.rows import Row
from reporting.tables import heading

PAPER = "autofusion_paper"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much a figure computes.

    Attributes:
        gammas: points of an interpolation, from 0 to 1.
        test_images: test images that accuracies are measured on.
        activation_images: test images that activations are compared on.
        paper_epochs: epochs of AutoFusion in the paper's settings.
        default_epochs: epochs of our default, as in the short configs.
        pairs: endpoint pairs, where a figure shows a spread over pairs.
    """

    gammas: int = 50
    test_images: int = 2000
    activation_images: int = 2000
    paper_epochs: int = 64
    default_epochs: int = 8
    pairs: int = 3


FULL = Sizes()
FAST = Sizes(
    gammas=7,
    test_images=500,
    activation_images=500,
    paper_epochs=4,
    default_epochs=2,
    pairs=1,
)


@dataclasses.dataclass(frozen=True)
class FigurePanel:
    """One picture of a figure.

    Attributes:
        file: its name in the folder of the figure.
        alt: what is to be seen, for those who do not see it.
        layer, method, sample: what it shows, to browse by; None for all or none.
    """

    file: str
    alt: str
    layer: str | None = None
    method: str | None = None
    sample: str | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve: `y` over the `x` of its `Curves`; NaN where there is nothing."""

    name: str
    metric: str
    y: np.ndarray
    error: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Curves:
    """The numbers of a figure that is drawn from curves."""

    x_title: str
    y_title: str
    x: Sequence[float]
    series: Sequence[Series]

    def to_json(self) -> dict[str, Any]:
        """As plain lists and dicts; None where there is no number."""
        series = [
            {"name": s.name, "metric": s.metric, "y": _plain(s.y), "error": _plain(s.error)}
            for s in self.series
        ]
        return {"x_title": self.x_title, "y_title": self.y_title, "x": list(map(float, self.x)),
                "series": series}  # fmt: skip


def _plain(values: np.ndarray | None) -> list[float | None] | None:
    if values is None:
        return None
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What drawing a figure gives, beside the pictures in its folder.

    Attributes:
        caption: what was run, what is to be seen, and what it does not show.
        panels: the pictures.
        curves: the numbers, or None.
        numbers: further numbers, by name.
    """

    caption: str
    panels: Sequence[FigurePanel]
    curves: Curves | None = None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a paper, as we reproduce it.

    Attributes:
        name: what `--figure` calls it.
        title: its heading.
        configs: builders of the configs whose networks it shows.
        rows: the merges it shows.
        draw: runs what is missing and draws the pictures.
        fast: the merges of a first look; all if empty.
    """

    name: str
    title: str
    configs: tuple[Callable[[], Config], ...]
    rows: tuple[Row, ...]
    draw: Callable[["Drawing"], Contents]
    fast: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure being drawn: its runs in memory, and its folder.

    Attributes:
        figure: what is drawn.
        folder: where its pictures go.
        sizes: how much is computed.
        runs: the runs of its configs, by the config's name.
        console: where progress is printed.
    """

    figure: Figure
    folder: Path
    sizes: Sizes
    runs: Mapping[str, Run]
    console: Console

    @property
    def settings(self) -> dict[str, Any]:
        """All that the figure depends on, as JSON holds it."""
        rows = [{"method": r.method, "title": r.title, "options": dict(r.options)} for r in self.figure.rows]
        configs = {name: run.identity for name, run in self.runs.items()}
        fields = {"configs": configs, "sizes": dataclasses.asdict(self.sizes), "entries": rows}
        return json.loads(json.dumps(fields))

    @property
    def run(self) -> Run:
        """The run of the first config."""
        return next(iter(self.runs.values()))

    def row(self, row: Row, *, labelled: int = 0) -> Row:
        """A merge with the epochs that the sizes say, and that many images with true labels if any."""
        options = dict(row.options)
        if row.method and row.method.startswith("autofusion"):
            paper = row.method == PAPER
            options["epochs"] = self.sizes.paper_epochs if paper else self.sizes.default_epochs
        return dataclasses.replace(row, options=options, labelled=labelled)

    def merge(self, pair: Pair, row: Row) -> list[Network]:
        """The networks of a merge's first repeat, one for each variant; found, if it was run before."""
        stored = run_row(row, pair)
        results = results_of(stored, row, pair, pair.run.config.name, beside=None)
        report(self.console, row.title, results, {"joint": heading("joint")}, stored)
        return [network for network in load_networks(stored, pair) if network.repeat == 0]

    def save(self, canvas: Canvas, picture: FigurePanel) -> FigurePanel:
        """Write a picture into the figure's folder."""
        save_figure(canvas, self.folder / picture.file)
        self.console.print(f"figure {self.figure.name}: {picture.file}")
        return picture


def merge_row(method: str, title: str, **options: Any) -> Row:
    """A merge of a figure."""
    return Row(method, title, method, options)


def result_of(networks: Sequence[Network]) -> MergeResult:
    """How the networks of one merge were brought together."""
    result = networks[0].result
    assert result is not None, "a merge"
    return result


def titled(row: Row, variant: str | None) -> str:
    """What a figure calls a variant of a merge."""
    return f"{row.title}, {variant}" if variant else row.title


def file_name(*parts: str) -> str:
    """A name for a picture, of letters, digits and underscores."""
    return "_".join(re.findall(r"[a-z0-9]+", "_".join(parts).lower())) + ".png"
