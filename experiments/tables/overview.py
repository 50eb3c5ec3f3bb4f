"""The accuracy of a table's main rows, panel by panel, on one screen."""

from collections.abc import Mapping, Sequence

from autofusion_jax.evaluation.results import Result, summarise
from autofusion_jax.evaluation.tables import markdown_rows
from reporting.published import mean_and_spread
from reporting.tables import heading
from tables.schema import Table


def overview_title(table: Table) -> str:
    """What the overview of a table shows."""
    return f"{heading(table.overview_metric)} accuracy (%), all panels:"


def overview_markdown(table: Table, records: Mapping[str, Sequence[Result]]) -> str:
    """One line for each panel, one column for each row that the table names for it.

    Cells are the mean of the table's metric, with its standard deviations over pairs and over keys.

    Args:
        table: the table, with an `overview`.
        records: panel -> its records; panels that are not there are left out.
    """
    lines = []
    for panel in table.panels:
        if panel.name not in records:
            continue
        rows = {(row.method, row.variant): row for row in summarise(records[panel.name])}
        pairs = max(row.num_pairs for row in rows.values())
        cells = [mean_and_spread(rows.get(key), table.overview_metric) for key in table.overview.values()]
        lines.append([panel.title, str(pairs), *cells])
    return markdown_rows([["", "Pairs", *table.overview], *lines])
