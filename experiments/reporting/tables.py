"""The results table, for the terminal and as Markdown, from one list of cells."""

from collections.abc import Sequence

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.table import Table

from reporting.records import Row

LABELS = {
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
    "start": "Where training started",
    "teacher_confidence": "Confidence ensemble (teacher)",
    "teacher_z": "Standardised-logit ensemble (teacher)",
    "teacher_em": "EM ensemble (teacher)",
    "control_ridge_head": "A's body, ridge head on pseudo-labels (control)",
    "control_random_network": "Fresh network on pseudo-labels (control)",
    "control_distillation": "Average, distilled on pseudo-labels (control)",
    "real_labels_finetuning": "Average, fine-tuned on the inputs' real labels (reference)",
    "real_labels_lora": "Average, LoRA on the inputs' real labels (reference)",
    "real_labels_training": "Trained on all real labels (reference)",
}

FULL_WIDTH = 110
HEADINGS = {
    "joint": "Joint",
    "task_a": "Task A",
    "task_b": "Task B",
    "avg": "Avg",
    "task_a_within": "A within",
    "task_b_within": "B within",
    "avg_within": "Avg within",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR-10",
    "cifar10_28": "CIFAR-10 (28 x 28)",
    "digits_28": "Digits (28 x 28)",
    "seen": "Seen",
    "unseen": "Unseen",
    "scaled": "Scaled (%)",
    "classification": "Classification (%)",
    "reconstruction": "Reconstruction error",
    "edges": "Edge error",
    "denoising": "Denoising error",
    "man_language": "Language",
    "man_section": "Section",
    "fortunes": "Fortunes",
    "cka": "CKA",
    "unit_correlation": "Unit correlation",
}


def heading(metric: str) -> str:
    """What a table calls a metric.

    Example:
        >>> heading("task_a"), heading("kmnist"), heading("task_c"), heading("kmnist_within")
        ('Task A', 'KMNIST', 'Task C', 'KMNIST within')
    """
    if metric in HEADINGS:
        return HEADINGS[metric]
    name = metric.removesuffix("_within")
    named = HEADINGS.get(name, name.replace("_", " ").title() if name.startswith("task_") else name)
    return f"{named} within" if metric != name else named


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """The metrics that any row has, but those within the tasks."""
    found = dict.fromkeys(metric for row in rows for metric in row.mean)
    return [metric for metric in found if not metric.endswith("_within")]


def title_of(method: str, variant: str | None) -> str:
    """What a table, figure or page calls a method; an unknown one by its name in words.

    Example:
        >>> title_of("autofusion", "soft"), title_of("model_b", None), title_of("control_one_more", None)
        ('AutoFusion, soft', 'Model B', 'Control one more')
    """
    words = method.replace("_", " ")
    endpoint = method.removeprefix("model_")
    known = words[:1].upper() + words[1:] if endpoint == method else f"Model {endpoint.upper()}"
    name = LABELS.get(method, known)
    return f"{name}, {variant}" if variant else name


def table_cells(rows: Sequence[Row], *, compact: bool = False) -> tuple[list[str], list[list[str]]]:
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
        cells.append([title_of(row.method, row.variant), *values, *between, learned, f"{row.seconds:.1f}"])
    return [*headings, "Learned", "Seconds"], cells


def _cell(row: Row, metric: str, *, spread: bool) -> str:
    if metric not in row.mean:
        return "-"
    deviation = f" ± {row.std_repeats[metric]:.2f}" if spread and row.num_repeats > 1 else ""
    return f"{row.mean[metric]:.2f}{deviation}"


def empty_table(title: str, *, compact: bool) -> Table:
    """A table for a terminal, with lines between columns and room around, or compact without."""
    return Table(
        title=title, box=SIMPLE_HEAD if compact else HEAVY_HEAD, padding=(0, 0) if compact else (0, 1)
    )


def rich_table(rows: Sequence[Row], title: str, *, width: int) -> Table:
    """The table for a terminal of `width` columns, compact where it is narrow."""
    compact = width < FULL_WIDTH
    headings, cells = table_cells(rows, compact=compact)
    table = empty_table(title, compact=compact)
    for i, heading in enumerate(headings):
        table.add_column(
            heading, justify="left" if i == 0 else "right", no_wrap=i > 0, min_width=20 if i == 0 else None
        )
    for line in cells:
        table.add_row(*line)
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    headings, cells = table_cells(rows)
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
