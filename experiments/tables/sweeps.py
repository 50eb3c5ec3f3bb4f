"""Figures of accuracy against a setting, drawn from the records of a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autofusion_jax.atomic import write_text
from autofusion_jax.evaluation.results import Result, Summary, summarise
from autofusion_jax.plots.canvas import save_figure
from reporting.sweep_figure import SweepSeries, sweep_figure
from tables.commands import RanPanel, table_command
from tables.schema import Point, Sweep, Table, TableConfig
from tables.stored import panel_identity

FIGURE_FILE = "figure.json"
Y_TITLE = "joint accuracy (%)"
VARIANTS = ("soft", "hard", None)

Results = Mapping[str, tuple[TableConfig, Sequence[Result]]]
"""Panel -> its settings and its records."""


def draw_sweeps(folder: Path, table: Table, results: Results) -> None:
    """Draw the sweeps of a table whose rows are there, and say in `figure.json` what they show."""
    for sweep in table.sweeps:
        rows = {
            (panel, row.method, row.variant): row
            for panel, (_, records) in results.items()
            for row in summarise(records)
        }
        series = _series(sweep, rows)
        if not series:
            continue
        levels = {
            label: rows[key].mean["joint"]
            for label, point in sweep.levels.items()
            if (key := (point.panel, point.entry, None)) in rows
        }
        config = next(iter(results.values()))[0]
        caption = _caption(config, list(rows.values()))
        figure = sweep_figure(
            series, levels=levels, title=f"{sweep.title}\n{caption}", x_title=sweep.x_title, y_title=Y_TITLE,
            log_x=sweep.log_x,
        )  # fmt: skip
        save_figure(figure, folder / f"{sweep.name}.png")
        described = _described(table, sweep, caption, series, _command(table, results))
        write_text(folder / FIGURE_FILE, json.dumps(described, indent=2) + "\n")


def _command(table: Table, results: Results) -> str:
    """The command that runs the panels of the figure again."""
    ran = [(panel, *results[panel.name]) for panel in table.panels if panel.name in results]
    return table_command([
        RanPanel(table, panel, panel_identity(config), {record.method for record in records})
        for panel, config, records in ran
    ])  # fmt: skip


def _caption(config: TableConfig, rows: Sequence[Summary]) -> str:
    """How many pairs and keys the points and their bars are made of."""
    pairs, repeats = max(row.num_pairs for row in rows), max(row.num_repeats for row in rows)
    text = f"mean of {pairs} pair(s) x {repeats} key(s), seed {config.seed} and up"
    if pairs == repeats == 1:
        return text
    return f"{text}; bars: standard deviation over {'pairs' if pairs > 1 else 'keys'}"


def _series(sweep: Sweep, rows: Mapping[tuple[str, str, str | None], Summary]) -> list[SweepSeries]:
    found = []
    for label, points in sweep.series.items():
        for variant in VARIANTS:
            there = [
                (point, rows[key]) for point in points if (key := (point.panel, point.entry, variant)) in rows
            ]
            if there:
                found.append(_one_series(f"{label}, {variant}" if variant else label, there))
    return found


def _one_series(label: str, points: Sequence[tuple[Point, Summary]]) -> SweepSeries:
    errors = [(row.std_pairs if row.num_pairs > 1 else row.std_repeats)["joint"] for _, row in points]
    return SweepSeries(
        label, [point.x for point, _ in points], [row.mean["joint"] for _, row in points], errors
    )


def _described(
    table: Table, sweep: Sweep, caption: str, series: Sequence[SweepSeries], command: str
) -> dict[str, Any]:
    """A figure in the form that reports read: the picture and the numbers behind it."""
    xs = sorted({x for one in series for x in one.x})
    curves = []
    for one in series:
        y, error = dict(zip(one.x, one.y)), dict(zip(one.x, one.error))
        curves.append({
            "name": one.label, "metric": "joint",
            "y": [y.get(x) for x in xs], "error": [error.get(x) for x in xs],
        })  # fmt: skip
    alt = f"Joint accuracy against {sweep.x_title}: " + "; ".join(
        f"{one.label} from {min(one.y):.1f} to {max(one.y):.1f} %" for one in series
    )
    return {
        "figure": f"table_{table.name}_{sweep.name}", "title": sweep.title, "caption": caption,
        "command": command,
        "panels": [{"file": f"{sweep.name}.png", "alt": alt, "layer": None, "method": None, "sample": None}],
        "curves": {"x_title": sweep.x_title, "y_title": Y_TITLE, "x": xs, "log_x": sweep.log_x,
                   "series": curves},
    }  # fmt: skip
