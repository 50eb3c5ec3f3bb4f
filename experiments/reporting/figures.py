"""Figures: interpolation curves and permutation matrices."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from autofusion_jax.plots.canvas import PALETTE

DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), "-", (0, (6, 2)))
MARKERS = ("*", "D", "s", "^")
LEVEL_DASHES = ((0, (8, 2)), (0, (3, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))
METRIC_TITLES = {"joint": "Both tasks (joint)", "task_a": "Task A", "task_b": "Task B"}


def interpolation_figure(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    gammas: np.ndarray,
    *,
    title: str,
    levels: Mapping[str, float] | None = None,
    metrics: Mapping[str, str] = METRIC_TITLES,
    points: Mapping[str, tuple[float, Mapping[str, float]]] | None = None,
) -> Figure:
    """Draw accuracy against gamma, one panel for each metric.

    Args:
        curves: label -> metric -> `[points]` in percent.
        gammas: weights of A, `[points]`.
        title: what was evaluated, and on what.
        levels: label -> joint accuracy of up to four networks without a curve, as thin grey lines.
        metrics: metric -> heading of its panel; by default joint, task A and task B.
        points: label -> (gamma, metrics) of up to four networks that lie on none of the curves.
    """
    figure = Figure(figsize=(13 if len(metrics) > 2 else 10, 5.2), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, (metric, heading) in zip(axes, metrics.items()):
        for i, (name, curve) in enumerate(curves.items()):
            color, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
            panel.plot(gammas, curve[metric], color=color, linestyle=dash, linewidth=2, label=name)
        for marker, (name, (gamma, values)) in zip(MARKERS, (points or {}).items()):
            panel.plot(
                gamma,
                values[metric],
                marker,
                color="black",
                markersize=13,
                markeredgecolor="white",
                label=name,
            )
        panel.set(title=heading, xlabel="gamma (weight of model A)", xlim=(0, 1), ylim=(0, 100))
        panel.grid(alpha=0.25)
    for dash, (name, level) in zip(LEVEL_DASHES, (levels or {}).items()):
        axes[0].axhline(level, color="0.3", linewidth=1, linestyle=dash, label=f"{name}: {level:.1f} %")
    axes[0].set_ylabel("accuracy (%)")
    figure.suptitle(title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(curves), 3), frameon=False)
    return figure


def permutation_figure(
    matrices: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
    notes: Mapping[str, Mapping[str, str]] | None = None,
) -> Figure:
    """Draw permutation matrices, one row per method, one column per group.

    Args:
        matrices: label of the method -> group -> `[n, n]`, rows model A's units.
        title: what they belong to.
        notes: label of the method -> group -> what to write above its matrix.
    """
    groups = list(next(iter(matrices.values())))
    rows, columns = len(matrices), len(groups)
    size = (max(2.5 * columns + 1, 4.5), (2.85 if notes else 2.6) * rows + 1.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    image = None
    for row, (name, by_group) in enumerate(matrices.items()):
        for column, group in enumerate(groups):
            panel, values = axes[row, column], np.clip(by_group[group], 0, 1)
            n = len(values)
            norm = PowerNorm(0.5, vmin=0, vmax=1)
            image = panel.imshow(visible_entries(values), cmap="cividis", norm=norm, extent=(0, n, n, 0))
            panel.set(xticks=[0, n], yticks=[0, n])
            if column == 0:
                panel.set_ylabel(f"{name}\nunit of A", fontsize=9)
            note = notes[name][group] if notes else ""
            heading = group if row == 0 else ""
            panel.set_title(f"{heading}\n{note}".strip(), fontsize=10)
            if row == rows - 1:
                panel.set_xlabel("unit of B", fontsize=9)
    if image is not None:
        figure.colorbar(
            image, ax=axes, location="bottom", shrink=0.8, aspect=40,
            label="weight of B's unit in A's place (square-root scale)",
        )  # fmt: skip
    figure.suptitle(title)
    return figure


def visible_entries(values: np.ndarray, *, dot: int = 3, from_size: int = 64, cells: int = 128) -> np.ndarray:
    """Keep the entries of a large matrix visible at the figure's size.

    Beyond `cells` a cell shows the largest entry of its block; below, from `from_size`, the
    entries of a hard permutation grow to dots.
    """
    if len(values) > cells:
        step = -(-len(values) // cells)
        padded = np.pad(values, (0, -len(values) % step))
        blocks = padded.reshape(len(padded) // step, step, len(padded) // step, step)
        return blocks.max(axis=(1, 3))
    if len(values) < from_size or not np.isin(values, (0, 1)).all():
        return values
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, dot // 2), (dot, dot))
    return windows.max(axis=(-1, -2))
