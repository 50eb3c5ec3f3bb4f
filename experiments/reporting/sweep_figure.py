"""A figure of accuracy against a setting, with error bars."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from autofusion_jax.plots.canvas import PALETTE
from reporting.figures import DASHES, LEVEL_DASHES

MARKERS = "osD^vXP"


class SweepSeries(NamedTuple):
    """One line: a label and, at each x, a value and the length of its error bar to either side."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float]


def sweep_figure(
    series: Sequence[SweepSeries],
    *,
    title: str,
    x_title: str,
    y_title: str,
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> Figure:
    """Draw each series with error bars, and levels as thin grey lines across.

    The accuracy axis starts at 0, or at the last ten below all values if they are above 50.

    Args:
        series: what to draw; lines differ in colour, dash and marker.
        title: what was measured, and on what.
        x_title: the setting.
        y_title: the accuracy.
        levels: label -> value that does not depend on the setting, up to four.
        log_x: whether the horizontal axis is logarithmic.
    """
    figure = Figure(figsize=(8.5, 5.4), dpi=130, layout="constrained")
    axes = figure.subplots()
    for i, one in enumerate(series):
        bars = yerror(one) if any(one.error) else None
        axes.errorbar(
            one.x, one.y, bars, label=one.label, color=PALETTE[i % len(PALETTE)],
            linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], capsize=3, linewidth=1.8,
        )  # fmt: skip
    for dash, (name, level) in zip(LEVEL_DASHES, (levels or {}).items()):
        axes.axhline(level, color="0.3", linewidth=1, linestyle=dash, label=f"{name}: {level:.1f} %")
    if log_x:
        axes.set_xscale("log")
    axes.set_xticks(sorted({x for one in series for x in one.x}), minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=8)  # neighbours such as 0.95 and 0.99
    axes.set(xlabel=x_title, ylabel=y_title, ylim=(_lowest(series, levels or {}), 100))
    axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def yerror(series: SweepSeries) -> list[list[float]]:
    """The bars below and above each point, kept within 0 to 100 %."""
    below = [min(error, y) for y, error in zip(series.y, series.error)]
    above = [min(error, 100 - y) for y, error in zip(series.y, series.error)]
    return [below, above]


def _lowest(series: Sequence[SweepSeries], levels: Mapping[str, float]) -> float:
    lowest = min([y - e for one in series for y, e in zip(one.y, one.error)] + list(levels.values()))
    return lowest // 10 * 10 if lowest > 50 else 0
