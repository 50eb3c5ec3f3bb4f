"""A table of our numbers beside published ones: for the terminal, as Markdown and as CSV."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence

from rich.box import HEAVY_HEAD
from rich.table import Table

from autofusion_jax.reporting.records import Row
from autofusion_jax.reporting.tables import HEADINGS

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


def comparison_cells(lines: Sequence[Line], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: our mean ± standard deviation over pairs, and what was published.

    A metric for which nothing was published has no column for it.
    """
    shown = [metric for metric in metrics if any(metric in line.published for line in lines)]
    headings = ["Method"]
    for metric in metrics:
        headings += [HEADINGS[metric], *([PUBLISHED] if metric in shown else [])]
    cells = []
    for line in lines:
        cell = [line.title]
        for metric in metrics:
            cell.append(_ours(line.row, metric))
            if metric in shown:
                cell.append(_number(line.published.get(metric)))
        cells.append(cell)
    return headings, cells


def _ours(row: Row | None, metric: str) -> str:
    if row is None or metric not in row.mean:
        return "-"
    spread = f" ± {row.std_pairs[metric]:.2f}" if row.num_pairs > 1 else ""
    return f"{row.mean[metric]:.2f}{spread}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def comparison_table(lines: Sequence[Line], metrics: Sequence[str], title: str) -> Table:
    """The comparison for a terminal; published columns are dim."""
    headings, cells = comparison_cells(lines, metrics)
    table = Table(title=title, box=HEAVY_HEAD)
    for i, heading in enumerate(headings):
        style = "dim" if heading == PUBLISHED else None
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i > 0, style=style)
    for cell in cells:
        table.add_row(*cell)
    return table


def comparison_markdown(lines: Sequence[Line], metrics: Sequence[str]) -> str:
    """The comparison as Markdown; published numbers are in italics."""
    headings, cells = comparison_cells(lines, metrics)
    marked = [
        [
            f"*{text}*" if heading == PUBLISHED and text != "-" else text
            for heading, text in zip(headings, cell)
        ]
        for cell in cells
    ]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, rule, *marked]) + "\n"


def comparison_csv(lines: Sequence[Line], metrics: Sequence[str]) -> str:
    """The comparison as CSV: for each metric our mean, its deviation over pairs, the published number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = ("mean", "std_pairs", PUBLISHED)
    writer.writerow(["method", "pairs", *(f"{metric}_{kind}" for metric in metrics for kind in kinds)])
    for line in lines:
        numbers: list[str] = []
        for metric in metrics:
            row = line.row if line.row and metric in line.row.mean else None
            ours = [f"{row.mean[metric]:.4f}", f"{row.std_pairs[metric]:.4f}"] if row else ["", ""]
            known = line.published.get(metric)
            numbers += [*ours, "" if known is None else f"{known:.2f}"]
        writer.writerow([line.title, line.row.num_pairs if line.row else 0, *numbers])
    return out.getvalue()
