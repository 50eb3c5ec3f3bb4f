"""Tables of results for the terminal and as Markdown, from one list of cells."""

from collections.abc import Callable, Sequence

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.table import Table

from autofusion_jax.evaluation.results import Summary

TITLES = {
    "interpolation": "Weight interpolation",
    "weight_matching": "Git Re-Basin",
    "activation_matching": "Activation matching",
    "mudsc": "MuDSC",
    "c2m3": "C2M3",
    "ot_fusion": "OT fusion",
    "pleas": "PLeaS",
    "ste": "Straight-through estimator",
    "sinkhorn_rebasin": "Sinkhorn re-basin",
    "zipit": "ZipIt",
    "autofusion_paper": "AutoFusion (paper)",
    "autofusion": "AutoFusion",
    "prune_concat": "prune_concat: half of each, least squares",
    "prune_concat_distill": "prune_concat, distilled",
    "confidence_ensemble": "Confidence ensemble",
    "z_ensemble": "Standardised-logit ensemble",
    "em_ensemble": "EM ensemble",
    "teacher_confidence": "Confidence ensemble (teacher)",
    "teacher_z": "Standardised-logit ensemble (teacher)",
    "teacher_em": "EM ensemble (teacher)",
    "control_model_a": "Model A, trained on with pseudo-labels (control)",
    "control_random_network": "Fresh network on pseudo-labels (control)",
}
"""Methods, teachers and the controls of `compare` -> what tables call them."""
HEADINGS = {"joint": "Joint", "avg": "Avg", "task_a_within": "A within", "task_b_within": "B within"}
"""Metrics -> what tables call them."""
FULL_WIDTH = 110

Naming = Callable[[str], str]
"""What a table calls a method, or a metric."""


def method_title(method: str) -> str:
    """The title of a method, teacher or network; an unknown one by its name in words.

    Example:
        >>> method_title("autofusion"), method_title("model_b"), method_title("one_more")
        ('AutoFusion', 'Model B', 'One more')
    """
    endpoint = method.removeprefix("model_")
    words = method.replace("_", " ")
    known = words[:1].upper() + words[1:] if endpoint == method else f"Model {endpoint.upper()}"
    return TITLES.get(method, known)


def metric_heading(metric: str) -> str:
    """The heading of a metric.

    Example:
        >>> metric_heading("task_a"), metric_heading("task_c_within"), metric_heading("birds")
        ('Task A', 'Task C within', 'birds')
    """
    if metric in HEADINGS:
        return HEADINGS[metric]
    name = metric.removesuffix("_within")
    named = name.replace("_", " ").title() if name.startswith("task_") else HEADINGS.get(name, name)
    return f"{named} within" if metric != name else named


def variant_title(method: str, variant: str | None, name: Naming = method_title) -> str:
    """The title of a method with its variant.

    Example:
        >>> variant_title("autofusion", "soft")
        'AutoFusion, soft'
    """
    return f"{name(method)}, {variant}" if variant else name(method)


def main_metrics(rows: Sequence[Summary]) -> list[str]:
    """The metrics that any row has, but those within the tasks."""
    found = dict.fromkeys(metric for row in rows for metric in row.mean)
    return [metric for metric in found if not metric.endswith("_within")]


def table_cells(
    rows: Sequence[Summary],
    *,
    compact: bool = False,
    name: Naming = method_title,
    heading: Naming = metric_heading,
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: percent as mean ± standard deviation over repeats.

    Where there is more than one pair, a column gives the standard deviation of the joint
    accuracy over pairs. A compact table gives deviations of the joint accuracy alone.
    """
    several = any(row.num_pairs > 1 for row in rows)
    metrics = main_metrics(rows)
    headings = ["Method", *map(heading, metrics), *(["± pairs"] if several else [])]
    cells = []
    for row in rows:
        values = [_cell(row, metric, spread=not compact or metric == "joint") for metric in metrics]
        between = [f"{row.std_pairs.get('joint', 0.0):.2f}"] if several else []
        learned = f"{row.num_learned:,}" if row.num_learned else "-"
        cells.append(
            [variant_title(row.method, row.variant, name), *values, *between, learned, f"{row.seconds:.1f}"]
        )
    return [*headings, "Learned", "Seconds"], cells


def _cell(row: Summary, metric: str, *, spread: bool) -> str:
    if metric not in row.mean:
        return "-"
    deviation = f" ± {row.std_repeats[metric]:.2f}" if spread and row.num_repeats > 1 else ""
    return f"{row.mean[metric]:.2f}{deviation}"


def empty_table(title: str, *, compact: bool) -> Table:
    """A table for a terminal, with lines between columns and room around, or compact without."""
    return Table(
        title=title, box=SIMPLE_HEAD if compact else HEAVY_HEAD, padding=(0, 0) if compact else (0, 1)
    )


def rich_table(
    rows: Sequence[Summary],
    title: str,
    *,
    width: int,
    name: Naming = method_title,
    heading: Naming = metric_heading,
) -> Table:
    """The table for a terminal of `width` columns, compact where it is narrow."""
    compact = width < FULL_WIDTH
    headings, cells = table_cells(rows, compact=compact, name=name, heading=heading)
    table = empty_table(title, compact=compact)
    for i, text in enumerate(headings):
        table.add_column(
            text, justify="left" if i == 0 else "right", no_wrap=i > 0, min_width=20 if i == 0 else None
        )
    for line in cells:
        table.add_row(*line)
    return table


def markdown_table(
    rows: Sequence[Summary], *, name: Naming = method_title, heading: Naming = metric_heading
) -> str:
    """The table as Markdown."""
    headings, cells = table_cells(rows, name=name, heading=heading)
    return markdown_rows([headings, *cells])


def markdown_rows(rows: Sequence[Sequence[str]], *, numeric: bool = True) -> str:
    r"""Any table as Markdown: the headings, then the rows.

    Args:
        rows: cells, as many in each row; their vertical bars are escaped.
        numeric: whether all columns but the first are numbers, set to the right.

    Example:
        >>> print(markdown_rows([["Method", "Joint"], ["a|b", "52.00"]]), end="")
        | Method | Joint |
        | --- | ---: |
        | a\|b | 52.00 |
    """
    rule = ["---", *["---:" if numeric else "---"] * (len(rows[0]) - 1)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [escaped[0], rule, *escaped[1:]])
