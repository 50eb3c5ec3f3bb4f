"""A drawing of a loss landscape: one panel for the average and one for each task."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from autofusion_jax.evaluation.landscape import Landscape
from autofusion_jax.plots.canvas import PALETTE
from reporting.figures import DASHES

TITLES = {"average": "Average of both tasks", "task_a": "Task A", "task_b": "Task B"}
MARKERS = ("*", "s", "D", "^", "v", "P")
LEVELS = 15


@dataclasses.dataclass(frozen=True)
class Marked:
    """A merge to mark in a landscape.

    Attributes:
        label: its name in the legend.
        merged: index of the merged network among the landscape's networks.
        parents: indices of the networks that it is the mean of.
    """

    label: str
    merged: int
    parents: tuple[int, ...]


def landscape_figure(landscape: Landscape, marks: Sequence[Marked], *, title: str) -> Figure:
    """Draw the losses as filled contours, merges as symbols, their parents as dots joined by a line.

    One scale of colours serves all panels, in equal ratios of the loss. It ends at the average
    loss of the worst of the parents; what lies above is drawn alike.

    Args:
        landscape: from `loss_landscape`.
        marks: what to mark in it.
        title: what was evaluated, and on what.
    """
    figure = Figure(figsize=(14, 5.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    levels = _levels(landscape, marks)
    filled = None
    for panel, (name, heading) in zip(axes, TITLES.items()):
        filled = _contours(panel, landscape, name, levels)
        for i, mark in enumerate(marks):
            _draw_mark(panel, landscape.coords, mark, i)
        share = landscape.explained[0]
        panel.set(title=heading, xlabel=f"first principal axis ({share:.0%} of the variance)")
    axes[0].set_ylabel(f"second principal axis ({landscape.explained[1]:.0%})")
    if filled is not None:
        label = "cross-entropy within the task"
        figure.colorbar(filled, ax=axes, location="right", shrink=0.9, label=label, format="%.2f")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title)
    return figure


def _levels(landscape: Landscape, marks: Sequence[Marked]) -> np.ndarray:
    """Geometric contour levels, from the lowest loss of any panel to the largest average of a parent."""
    average = landscape.losses["average"]
    parents = [landscape.coords[i] for mark in marks for i in mark.parents]
    finite = np.concatenate([losses[np.isfinite(losses)] for losses in landscape.losses.values()])
    lowest = max(float(finite.min()), 1e-6)
    top = max((_nearest(landscape, coords, average) for coords in parents), default=float(finite.max()))
    return np.geomspace(lowest, max(top, 1.5 * lowest), LEVELS)


def _nearest(landscape: Landscape, coords: np.ndarray, losses: np.ndarray) -> float:
    column = int(np.abs(landscape.xs - coords[0]).argmin())
    row = int(np.abs(landscape.ys - coords[1]).argmin())
    return float(losses[row, column])


def _contours(panel: Axes, landscape: Landscape, name: str, levels: np.ndarray) -> QuadContourSet:
    losses = np.nan_to_num(landscape.losses[name], nan=levels[-1], posinf=levels[-1])
    losses = np.maximum(losses, levels[0])  # a loss of zero has no logarithm
    surface, norm = (landscape.xs, landscape.ys, losses), LogNorm(levels[0], levels[-1])
    filled = panel.contourf(*surface, levels=levels, norm=norm, cmap="cividis_r", extend="max", zorder=0)
    panel.contour(*surface, levels=levels, colors="white", linewidths=0.4, alpha=0.6, zorder=1)
    return filled


def _draw_mark(panel: Axes, coords: np.ndarray, mark: Marked, number: int) -> None:
    color, marker = PALETTE[1:][number % len(PALETTE[1:])], MARKERS[number % len(MARKERS)]
    line = coords[[mark.parents[0], mark.merged, *mark.parents[1:]]]
    for tint, dash, width in (("white", DASHES[0], 1.8), ("black", DASHES[1], 0.8)):
        panel.plot(line[:, 0], line[:, 1], color=tint, linestyle=dash, linewidth=width, zorder=2)
    parents = coords[list(mark.parents)]
    panel.scatter(
        parents[:, 0], parents[:, 1], s=36, color="black", edgecolor="white", zorder=3,
        label=None if number else "parents",
    )  # fmt: skip
    panel.scatter(
        *coords[mark.merged], s=190 if marker == "*" else 90, marker=marker, color=color, edgecolor="white",
        linewidth=0.9, zorder=4, label=mark.label,
    )  # fmt: skip
