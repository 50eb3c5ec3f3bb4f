"""A table of our numbers beside published ones: for the terminal, as Markdown and as CSV."""

import csv
import dataclasses
import io
import re
import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table

from autofusion_jax.evaluation.results import Summary
from autofusion_jax.evaluation.tables import empty_table, markdown_rows
from reporting.tables import heading

PUBLISHED = "published"
METHOD_WIDTH = 18
"""Characters of a method's title that are shown on one line at least."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a comparison.

    Attributes:
        title: what the table calls the method.
        row: our summary of it, or None where it was not run.
        published: metric -> the published accuracy in percent, where there is one.
    """

    title: str
    row: Summary | None
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)


def comparison_cells(
    lines: Sequence[Line], metrics: Sequence[str], *, costs: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: our mean ± standard deviation over pairs, and what was published.

    Where merges were repeated with other keys, the deviation over these follows in brackets. A
    metric for which nothing was published has no column for it. `costs` adds the numbers that were
    fitted to data, and the seconds.
    """
    shown = [metric for metric in metrics if any(metric in line.published for line in lines)]
    headings = ["Method"]
    for metric in metrics:
        headings += [heading(metric), *([PUBLISHED] if metric in shown else [])]
    cells = []
    for line in lines:
        cell = [line.title]
        for metric in metrics:
            cell.append(mean_and_spread(line.row, metric))
            if metric in shown:
                cell.append(_number(line.published.get(metric)))
        cells.append([*cell, *(_costs(line.row) if costs else [])])
    return [*headings, *(["Learned", "Seconds"] if costs else [])], cells


def _costs(row: Summary | None) -> list[str]:
    if row is None:
        return ["-", "-"]
    return [f"{row.num_learned:,}" if row.num_learned else "-", f"{row.seconds:.1f}"]


def mean_and_spread(row: Summary | None, metric: str) -> str:
    """The mean of a metric, ± its deviation over pairs, in brackets that over keys; "-" for none."""
    if row is None or metric not in row.mean:
        return "-"
    spread = f" ± {row.std_pairs[metric]:.2f}" if row.num_pairs > 1 else ""
    keys = f" ({row.std_repeats[metric]:.2f})" if row.num_repeats > 1 else ""
    return f"{row.mean[metric]:.2f}{spread}{keys}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def comparison_table(
    lines: Sequence[Line], metrics: Sequence[str], title: str, *, width: int, costs: bool = False
) -> Table:
    """The comparison for a terminal of `width` columns; published is dim.

    It is compact where it would not fit, and without deviations where that would not either.
    """
    headings, cells = comparison_cells(lines, metrics, costs=costs)
    fitting = _column_widths(headings, cells)
    compact = sum(fitting) + 3 * len(fitting) + 1 > width
    if sum(fitting) + len(fitting) + 1 > width:
        cells = [[line[0], *(text.split(" ")[0] for text in line[1:])] for line in cells]
        fitting = _column_widths(headings, cells)
    table = empty_table(title, compact=compact)
    table.add_column(headings[0], min_width=METHOD_WIDTH)
    for name, size in zip(headings[1:], fitting[1:]):
        style = "dim" if name == PUBLISHED else None
        table.add_column(textwrap.fill(name, size), justify="right", no_wrap=True, style=style)
    for cell in cells:
        table.add_row(*cell)
    return table


def _column_widths(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    """What the columns need: methods' titles wrap, headings between words and at hyphens, numbers nowhere."""
    parts = [re.findall(r"[^ -]+-?", name) for name in headings]
    columns = [max(map(len, (*words, *column))) for words, column in zip(parts, zip(*cells))]
    return [METHOD_WIDTH, *columns[1:]]


def comparison_markdown(lines: Sequence[Line], metrics: Sequence[str], *, costs: bool = False) -> str:
    """The comparison as Markdown; published numbers are in italics."""
    headings, cells = comparison_cells(lines, metrics, costs=costs)
    marked = [
        [f"*{text}*" if name == PUBLISHED and text != "-" else text for name, text in zip(headings, cell)]
        for cell in cells
    ]
    return markdown_rows([headings, *marked])


def comparison_csv(sections: Mapping[str, Sequence[Line]], metrics: Sequence[str]) -> str:
    """The comparison as CSV: one line for each line of each section.

    For each metric our mean, its deviation over pairs and over keys, and the published number.

    Args:
        sections: name -> lines; the name fills the first column.
        metrics: the columns.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = ("mean", "std_pairs", "std_repeats", PUBLISHED)
    heads = ("panel", "method", "pairs", "repeats", "num_learned", "seconds")
    writer.writerow([*heads, *(f"{metric}_{kind}" for metric in metrics for kind in kinds)])
    for name, lines in sections.items():
        for line in lines:
            row = line.row
            facts = (
                [row.num_pairs, row.num_repeats, row.num_learned, f"{row.seconds:.3f}"]
                if row
                else [0, 0, "", ""]
            )
            numbers: list[str] = []
            for metric in metrics:
                ours = [row.mean, row.std_pairs, row.std_repeats] if row and metric in row.mean else []
                known = line.published.get(metric)
                numbers += [f"{values[metric]:.4f}" for values in ours] or [""] * 3
                numbers.append("" if known is None else f"{known:.2f}")
            writer.writerow([name, line.title, *facts, *numbers])
    return out.getvalue()
