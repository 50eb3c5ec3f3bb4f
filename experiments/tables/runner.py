"""The rows of a panel on its endpoint pairs: those that its folder lacks come from the engine."""

from collections.abc import Sequence

from rich.console import Console

from autofusion_jax.evaluation.results import Result
from pipeline.endpoints import Run
from pipeline.engine import report, results_of, run_row
from pipeline.records import write_rows
from reporting.tables import heading
from tables.schema import Panel, Table, TableConfig
from tables.stored import claim, in_order, panel_folder

REPORTED = ("joint", "avg_within", "scaled")
"""Metrics that are shown while rows are run, where the table has them; else its first one."""


def run_rows(
    table: Table, panel: Panel, config: TableConfig, run: Run, console: Console, names: Sequence[str]
) -> list[Result]:
    """Run those rows of `names` that `results.jsonl` lacks; it is written again after every row.

    Returns:
        The results in the order of the panel, pair by pair.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    folder = panel_folder(panel, config)
    results = claim(folder, table, panel, config, run)
    done = {(result.method, result.pair) for result in results}
    wanted = [row for row in panel.rows if row.name in names]
    missing = [(k, row) for k in range(config.pairs) for row in wanted if (row.name, k) not in done]
    shown = {name: heading(name) for name in REPORTED if name in panel.metrics} or {
        panel.metrics[0]: heading(panel.metrics[0])
    }
    pair = None
    for place, (number, row) in enumerate(missing, 1):
        if pair is None or pair.split.number != number:
            pair = run.pair(number)
        stored = run_row(row, pair)
        new = results_of(stored, row, pair, table.label(panel), beside=None)
        results += new
        write_rows(folder, results)
        report(console, row.title, new, shown, stored, left=len(missing) - place)
    return in_order(panel, config, results)
