"""What a figure is: its configs, its merges, and how it is drawn."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.schema import Config

if TYPE_CHECKING:
    from figures.work import Work


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
class Entry:
    """One merge of a figure.

    Attributes:
        method: registry name.
        title: what the figure calls it; `, soft` or `, hard` follows where there are both.
        options: options of the method.
    """

    method: str
    title: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Panel:
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
class Drawn:
    """What drawing a figure gives, beside the pictures in its folder.

    Attributes:
        caption: what was run, what is to be seen, and what it does not show.
        panels: the pictures.
        curves: the numbers, or None.
        numbers: further numbers, by name.
    """

    caption: str
    panels: Sequence[Panel]
    curves: Curves | None = None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a paper, as we reproduce it.

    Attributes:
        name: what `--figure` calls it.
        title: its heading.
        configs: builders of the configs whose networks it shows.
        entries: the merges it shows.
        draw: runs what is missing and draws the pictures.
        fast: the merges of a first look; all if empty.
    """

    name: str
    title: str
    configs: tuple[Callable[[], Config], ...]
    entries: tuple[Entry, ...]
    draw: Callable[["Work"], Drawn]
    fast: tuple[Entry, ...] = ()
