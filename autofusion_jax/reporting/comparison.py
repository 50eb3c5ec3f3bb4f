"""A table of our numbers beside published ones: for the terminal, as Markdown and as CSV."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

from rich.box import HEAVY_HEAD
from rich.table import Table

from autofusion_jax.reporting.records import Row
from autofusion_jax.reporting.tables import heading, markdown_rows

PUBLISHED = "published"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a comparison.

    Attributes:
        title: what the table calls the method.
        row: our summary of it, or None where it was not run.
        published: metric -> the published accuracy in percent, where there is one.
    """

    title: str
    row: Row | None
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


def _costs(row: Row | None) -> list[str]:
    if row is None:
        return ["-", "-"]
    return [f"{row.num_learned:,}" if row.num_learned else "-", f"{row.seconds:.1f}"]


def mean_and_spread(row: Row | None, metric: str) -> str:
    """The mean of a metric, ± its deviation over pairs, in brackets that over keys; "-" for none."""
    if row is None or metric not in row.mean:
        return "-"
    spread = f" ± {row.std_pairs[metric]:.2f}" if row.num_pairs > 1 else ""
    keys = f" ({row.std_repeats[metric]:.2f})" if row.num_repeats > 1 else ""
    return f"{row.mean[metric]:.2f}{spread}{keys}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def comparison_table(
    lines: Sequence[Line], metrics: Sequence[str], title: str, *, costs: bool = False
) -> Table:
    """The comparison for a terminal; published columns are dim."""
    headings, cells = comparison_cells(lines, metrics, costs=costs)
    table = Table(title=title, box=HEAVY_HEAD)
    for i, name in enumerate(headings):
        style = "dim" if name == PUBLISHED else None
        table.add_column(
            name, justify="left" if i == 0 else "right", no_wrap=i > 0, style=style,
            min_width=None if i else 20,
        )  # fmt: skip
    for cell in cells:
        table.add_row(*cell)
    return table


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
