"""A drawing of activation maps: rows inputs, columns the input and what each network sees in it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CELL, LEFT, TOP = 1.45, 1.0, 1.1
"""Inches: a cell, the labels of the rows, the headings."""

COLORS = "inferno"


@dataclasses.dataclass(frozen=True)
class MapRow:
    """One input.

    Attributes:
        label: what it is.
        image: `[height, width]` or `[height, width, channels]`, in [0, 1].
        maps: for each network `[height, width]`, >= 0; each is drawn relative to its own largest value.
        notes: for each network what to write below its map.
    """

    label: str
    image: np.ndarray
    maps: tuple[np.ndarray, ...]
    notes: tuple[str, ...]


def activation_figure(rows: Sequence[MapRow], networks: Sequence[str], *, title: str) -> Figure:
    """Draw the input, then each network's map with the outline of the input over it.

    Args:
        rows: the inputs, one a row.
        networks: headings of the columns of maps.
        title: which layer, of which networks.
    """
    columns = 1 + len(networks)
    size = (CELL * columns + LEFT, (CELL + 0.22) * len(rows) + TOP)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes):
        grey = row.image if row.image.ndim == 2 else row.image.mean(-1)
        line[0].imshow(_picture(row.image), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(row.label, fontsize=9)
        for panel, values, note in zip(line[1:], row.maps, row.notes):
            _draw_map(panel, values, grey)
            panel.set_xlabel(note, fontsize=8)
        for panel in line:
            panel.set(xticks=[], yticks=[])
    for panel, heading in zip(axes[0], ("input", *networks)):
        panel.set_title(heading, fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_map(panel: Axes, values: np.ndarray, grey: np.ndarray) -> None:
    top = float(values.max())
    panel.imshow(values / top if top > 0 else values, cmap=COLORS, vmin=0, vmax=1)
    if grey.min() < 0.5 < grey.max():
        panel.contour(grey, levels=[0.5], colors="white", linewidths=0.9, alpha=0.9)


def _picture(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
