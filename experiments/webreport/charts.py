"""Interactive charts: plotly figures as JSON, one for each view that the reader can choose.

A chart is `{"label", "views": [{"title", "figure"}], "gammas", "start"}`: the last two, the stops of
the slider and the line it reads first, are None where no slider belongs to it. The page's script
gives lines their colours, by their place (`meta`) and the scheme.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects as go

from autofusion_jax.plots.canvas import PALETTE
from reporting.tables import heading, title_of
from webreport.collect import Key
from webreport.summary import overall

DASHES = ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot")
MOST_TICKS = 10
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
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


def palettes() -> dict[str, list[str]]:
    """The colours of lines, by scheme."""
    return {"light": list(PALETTE), "dark": list(DARK_PALETTE)}


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
            _line(i, gammas, _rounded(curve[metric], 2), title_of(*key), hovertemplate="%{y:.1f} %")
            for i, (key, curve) in enumerate(curves.items())
        ]
        figure = _figure(lines, "gamma (weight of model A)", "accuracy (%)", [0, 101])
        views.append({"title": heading(metric), "figure": figure})
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
        views.append({"title": title, "figure": _figure(lines, "epoch", title)})
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
    by_view: dict[tuple[str, str], list[go.Scatter]] = {}
    for series, subject, name in split:
        error = series.get("error")
        line = _line(numbers[name], curves["x"], series["y"], name, error, mode="lines+markers")
        by_view.setdefault((subject, series["metric"]), []).append(line)
    subjects = [subject for subject, _ in by_view]
    views = []
    for (subject, metric), lines in by_view.items():
        alone = subject and (not several or subjects.count(subject) == 1)
        title = subject if alone else ": ".join(filter(None, [subject, heading(metric)]))
        figure = _figure(lines, curves["x_title"], curves["y_title"])
        axis = figure["layout"]["xaxis"]
        if curves.get("log_x"):
            axis["type"] = "log"
        if curves.get("log_x") or len(curves["x"]) <= MOST_TICKS:
            axis["tickvals"] = curves["x"]
        views.append({"title": title, "figure": figure})
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
    mode: str = "lines",
    hovertemplate: str = "%{y:.4g}",
) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, name=name, mode=mode, meta=number, hovertemplate=hovertemplate,
        line={"dash": DASHES[number % len(DASHES)], "width": 2},
        marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
        error_y={"type": "data", "array": error, "thickness": 1, "width": 2} if error else None,
    )  # fmt: skip


def _figure(
    lines: Sequence[go.Scatter], x_title: str, y_title: str, y_range: Sequence[float] | None = None
) -> dict[str, Any]:
    figure = go.Figure(lines)
    figure.update_layout(
        template="none", hovermode="x unified", hoverdistance=-1, showlegend=False,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        xaxis={"title": {"text": x_title}, "zeroline": False},
        yaxis={"title": {"text": y_title}, "zeroline": False, "range": y_range},
    )  # fmt: skip
    return figure.to_plotly_json()


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """As JSON has it: no NaN, no more digits than a chart can show."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
