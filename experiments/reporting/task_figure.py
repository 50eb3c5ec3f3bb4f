"""Figures of several tasks at once: accuracies on a radar chart, and a matrix of similarities."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from autofusion_jax.plots.canvas import PALETTE
from reporting.figures import DASHES
from reporting.sweep_figure import MARKERS

DARK = 0.5
"""Above this similarity the colour under a number is light."""


def radar_figure(
    lines: Mapping[str, Sequence[float]], tasks: Sequence[str], *, title: str, low: float = 0.0
) -> Figure:
    """Draw accuracies of several methods, one axis for each task, all from the same middle.

    Args:
        lines: label -> accuracy on each task in percent; labels differ in colour, dash and marker.
        tasks: names of the tasks, three or more.
        title: what was measured, and on what.
        low: the accuracy in the middle.
    """
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    figure = Figure(figsize=(7.5, 7.2), dpi=130, layout="constrained")
    axes = figure.add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    axes.set(theta_offset=np.pi / 2, theta_direction=-1)
    for i, (label, values) in enumerate(lines.items()):
        axes.plot(
            np.append(angles, angles[0]), [*values, values[0]], label=label, color=PALETTE[i % len(PALETTE)],
            linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], markersize=5, linewidth=1.8,
        )  # fmt: skip
    axes.set_xticks(angles, tasks)
    axes.tick_params(axis="x", pad=14)
    axes.set_rlim(low, 100)
    axes.set_yticks(np.linspace(low, 100, 5)[1:])
    axes.yaxis.set_major_formatter("{x:g} %")
    _clear_labels(axes, [max(values[i] for values in lines.values()) for i in range(len(tasks))])
    axes.grid(alpha=0.4)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _clear_labels(axes: PolarAxes, highest: Sequence[float]) -> None:
    """Write the circles' labels before the lines, between those neighbours where lines reach out least."""
    sides = [sum(pair) for pair in zip(highest, [*highest[1:], highest[0]])]
    axes.set_rlabel_position(360 / len(highest) * (int(np.argmin(sides)) + 0.5))
    axes.set_axisbelow(False)  # ticks' labels are drawn after the lines
    for label in axes.get_yticklabels():
        label.set(zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})


def similarity_matrix_figure(
    similarities: Float[np.ndarray, "n n"], names: Sequence[str], *, title: str, label: str
) -> Figure:
    """Draw a matrix of similarities, each cell with its number.

    Args:
        similarities: symmetric, at most 1; colours go from the lowest that is drawn, at most 0, to 1.
        names: what the rows and columns are.
        title: what was compared.
        label: what the numbers are.
    """
    figure = Figure(figsize=(1.25 * len(names) + 2.4, 1.1 * len(names) + 2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    low = min(0.0, float(similarities.min()))
    image = axes.imshow(similarities, cmap="cividis", vmin=low, vmax=1)
    for (row, column), value in np.ndenumerate(similarities):
        color = "black" if value > DARK else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return figure
