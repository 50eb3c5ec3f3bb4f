"""Interactive charts: their data as JSON, one view for each choice of the reader.

A chart is `{"label", "views", "gammas", "start"}`: the last two, the stops of the slider and the line it
reads first, are None where no slider belongs to it. A view has a title, `x_title`, `y_title`, `y_range`
(None: by the data), `log_x`, `ticks` (None: by the range) and its lines, each with a name, a place that
gives its colour, dash and marker, `x`, `y`, `error` and whether its points are marked. The page's script
draws them as SVG.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from autofusion_jax.plots.canvas import PALETTE
from reporting.tables import heading, title_of
from webreport.collect import Key
from webreport.summary import overall

MOST_TICKS = 10
DARK_PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#FFFFFF")
"""Okabe and Ito's colours in an order that reads on a dark ground, white in place of black."""

Chart: TypeAlias = dict[str, Any]

HISTORY_TITLES = {
    "align": "Alignment loss",
    "retain": "Retention loss",
    "kept": "Share of inputs with a pseudo-label",
    "marginal_error": "Distance from row and column sums of one",
    "row_entropy": "Indecision of the soft permutations (nats)",
}


def palettes() -> dict[str, str]:
    """The colours of lines by scheme, as the page's style declares them.

    Example:
        >>> palettes()["dark"][:34]
        '--line-0: #56B4E9; --line-1: #E69F'
    """
    schemes = {"light": PALETTE, "dark": DARK_PALETTE}
    return {
        scheme: " ".join(f"--line-{i}: {color};" for i, color in enumerate(colors))
        for scheme, colors in schemes.items()
    }


def interpolation_chart(curves: Mapping[Key, Mapping[str, np.ndarray]], label: str) -> Chart:
    """Accuracy over gamma, one view for each metric.

    Args:
        curves: method and variant -> metric -> `[points]` in percent.
        label: what the chart shows, for those who do not see it.
    """
    first = next(iter(curves.values()))
    metrics = overall([metric for metric in first if all(metric in curve for curve in curves.values())])
    gammas = _rounded(np.linspace(0, 1, len(first[metrics[0]])), 4)
    views = []
    for metric in metrics:
        lines = [
            _line(i, gammas, _rounded(curve[metric], 2), title_of(*key))
            for i, (key, curve) in enumerate(curves.items())
        ]
        titles = heading(metric), "gamma (weight of model A)", "accuracy (%)"
        views.append(_view(lines, *titles, y_range=[0, 100]))
    middle = [curve[metrics[0]][len(gammas) // 2] for curve in curves.values()]
    return {"label": label, "views": views, "gammas": gammas, "start": int(np.nanargmax(middle))}


def history_chart(histories: Mapping[str, Mapping[str, np.ndarray]], label: str) -> Chart:
    """What was recorded while merges learned: mean and standard deviation over repeats by epoch."""
    views = []
    for quantity in dict.fromkeys(name for by_name in histories.values() for name in by_name):
        lines = []
        for number, (method, by_name) in enumerate(histories.items()):
            values = by_name.get(quantity)
            if values is None:
                continue
            error = _rounded(values.std(0, ddof=1), 6) if len(values) > 1 else None
            epochs = list(range(1, values.shape[1] + 1))
            lines.append(_line(number, epochs, _rounded(values.mean(0), 6), title_of(method, None), error))
        title = history_title(quantity)
        views.append(_view(lines, title, "epoch", title))
    return {"label": label, "views": views, "gammas": None, "start": None}


def history_title(quantity: str) -> str:
    """What the page calls a recorded quantity."""
    words = quantity.replace("_", " ")
    return HISTORY_TITLES.get(quantity, words[:1].upper() + words[1:])


def figure_chart(curves: Mapping[str, Any], label: str) -> Chart:
    """The curves of a reproduced figure with their error bars, one view for each metric and subject.

    The name of a series may begin with its subject: `MLP: AutoFusion, soft` is a line of the view `MLP`.
    With `log_x` the horizontal axis is logarithmic; there, and where points are few, each has a tick.
    """
    split = [(series, *_subject(series["name"])) for series in curves["series"]]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(name for _, _, name in split))}
    several = len({series["metric"] for series in curves["series"]}) > 1
    by_view: dict[tuple[str, str], list[Chart]] = {}
    for series, subject, name in split:
        error = series.get("error")
        line = _line(numbers[name], curves["x"], series["y"], name, error, marked=True)
        by_view.setdefault((subject, series["metric"]), []).append(line)
    subjects = [subject for subject, _ in by_view]
    views = []
    for (subject, metric), lines in by_view.items():
        alone = subject and (not several or subjects.count(subject) == 1)
        title = subject if alone else ": ".join(filter(None, [subject, heading(metric)]))
        log_x = bool(curves.get("log_x"))
        ticks = curves["x"] if log_x or len(curves["x"]) <= MOST_TICKS else None
        views.append(_view(lines, title, curves["x_title"], curves["y_title"], log_x=log_x, ticks=ticks))
    return {"label": label, "views": views, "gammas": None, "start": None}


def _subject(name: str) -> tuple[str, str]:
    subject, _, rest = name.rpartition(": ")
    return subject, rest


def _line(
    number: int,
    x: Sequence[Any],
    y: Sequence[float | None],
    name: str,
    error: Sequence[float | None] | None = None,
    *,
    marked: bool = False,
) -> Chart:
    return {"name": name, "place": number, "x": x, "y": y, "error": error, "marked": marked}


def _view(
    lines: Sequence[Chart],
    title: str,
    x_title: str,
    y_title: str,
    *,
    y_range: Sequence[float] | None = None,
    log_x: bool = False,
    ticks: Sequence[float] | None = None,
) -> Chart:
    return {
        "title": title, "x_title": x_title, "y_title": y_title, "y_range": y_range, "log_x": log_x,
        "ticks": ticks, "lines": lines,
    }  # fmt: skip


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """As JSON has it: no NaN, no more digits than a chart can show."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
