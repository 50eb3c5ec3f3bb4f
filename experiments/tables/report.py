"""The files of a reproduced table: Markdown, CSV and figures, from its records and its first pair."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console

import autofusion_jax as af
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.evaluation.landscape import loss_landscape, merge_parents
from autofusion_jax.merging.corrections.reset_norm import reset_norm
from autofusion_jax.reporting.comparison import (
    Line,
    comparison_csv,
    comparison_markdown,
    comparison_table,
)
from autofusion_jax.reporting.figures import interpolation_figure, save_figure
from autofusion_jax.reporting.landscape_figure import Marked, landscape_figure
from autofusion_jax.reporting.records import Record, Row, summarise, write_text
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from pipeline.outputs import evenly
from tables.runner import RESULTS_FILE, merge_once
from tables.schema import Case, Source, Table, TableConfig

TABLE_FILE, CSV_FILE = "results.md", "results.csv"
LANDSCAPE_FIGURE, CURVE_FIGURE = "landscape.png", "interpolation.png"
WITHIN_TITLES = {
    "avg_within": "Mean of both, each within its task",
    "task_a_within": "Task A, within its classes",
    "task_b_within": "Task B, within its classes",
}
RESET_IMAGES = 500
"""Calibration images that BatchNorm statistics are measured on at every point of a figure."""


class Family(NamedTuple):
    """A merged network and the networks that it is the mean of."""

    title: str
    merged: Params
    parents: list[Params]


def table_lines(table: Table, records: Sequence[Record]) -> list[Line]:
    """One line for every row of the table and variant of it."""
    rows = summarise(records)
    lines = []
    for entry in table.entries:
        ours: list[Row | None] = [row for row in rows if row.method == entry.name]
        for row in ours or [None]:
            title = f"{entry.title}, {row.variant}" if row and row.variant else entry.title
            lines.append(Line(title, row, entry.published))
    return lines


def table_text(table: Table, config: TableConfig, records: Sequence[Record]) -> str:
    """The table as Markdown: heading, what was run, the numbers."""
    cells = comparison_markdown(table_lines(table, records), table.metrics)
    return "\n\n".join([f"# {table.title}", *caption(table, config, records), cells])


def caption(table: Table, config: TableConfig, records: Sequence[Record]) -> list[str]:
    """What was run, and what the searches chose, in paragraphs."""
    rows = {row.method: row for row in summarise(records)}
    found = _found(table, records)
    return [*table.caption(config, rows), *([found] if found else [])]


def _found(table: Table, records: Sequence[Record]) -> str:
    """What the searches of each row chose, pair by pair."""
    parts = []
    for entry in table.entries:
        for name in entry.search:
            values = [f"{r.found[name]:g}" for r in records if r.method == entry.name and name in r.found]
            parts.append(f"{entry.title}: {name} {', '.join(values)}")
    return f"Found by search, pair by pair: {'; '.join(parts)}." if parts else ""


def write_report(
    folder: Path,
    table: Table,
    config: TableConfig,
    source: Source,
    records: Sequence[Record],
    console: Console,
) -> None:
    """Write table and figures, and print the table."""
    lines = table_lines(table, records)
    notes = "".join(f"\nNote: {note}\n" for note in source.notes)
    write_text(folder / TABLE_FILE, table_text(table, config, records) + notes)
    write_text(folder / CSV_FILE, comparison_csv(lines, table.metrics))
    _draw(folder, table, config, source, records)
    console.print(comparison_table(lines, table.metrics, table.title))
    for paragraph in [*caption(table, config, records), *source.notes]:
        console.print(paragraph)
    files = [RESULTS_FILE, TABLE_FILE, CSV_FILE, *(path.name for path in sorted(folder.glob("*.png")))]
    console.print(f"results in {folder}: {', '.join(files)}")


def _draw(folder: Path, table: Table, config: TableConfig, source: Source, records: Sequence[Record]) -> None:
    """Draw the figures that are not there yet and whose rows are, of the first pair; it is merged again."""
    found = {record.method: record.found for record in records if record.pair == 0}
    figures = {
        folder / CURVE_FIGURE: (table.curves, _draw_curves),
        folder / LANDSCAPE_FIGURE: (table.landscape, _draw_landscape),
    }
    wanted = {
        path: (names, draw)
        for path, (names, draw) in figures.items()
        if names and not path.is_file() and all(name in found for name in names)
    }
    if not wanted:
        return
    case = source.open_pair(0)
    spec = case.model.perm_spec
    families = {}
    for entry in table.entries:
        if any(entry.name in names for names, _ in wanted.values()):
            result = merge_once(entry, case, spec, found[entry.name], correction=None)
            parents = merge_parents(spec, case.models, result)
            families[entry.name] = Family(entry.title, result.params, parents)
    for path, (names, draw) in wanted.items():
        draw(path, table, config, case, spec, [families[name] for name in names])


def _prepare(table: Table, case: Case, spec: PermSpec) -> Callable[[Params], Params] | None:
    """What follows every network of a figure: BatchNorm statistics measured again, as in the table."""
    if table.correction != "reset_norm":
        return None
    x = case.x[evenly(len(case.x), RESET_IMAGES)]
    return lambda params: reset_norm(spec, params, x)[0]


def _draw_curves(
    path: Path, table: Table, config: TableConfig, case: Case, spec: PermSpec, families: Sequence[Family]
) -> None:
    """Accuracy along the line between the two parents of each merge."""
    chosen = evenly(case.test_labels.shape[-1], config.evaluate.curve_images)
    gammas = np.linspace(0, 1, config.evaluate.curve_points)
    prepare = _prepare(table, case, spec)
    curves = {
        family.title: interpolation_curve(
            case.model.apply, spec, family.parents[0], family.parents[1], af.identity_perms(spec),
            jnp.asarray(gammas), case.test_x[chosen], case.test_labels[..., chosen], case.tasks,
            prepare=prepare,
        )
        for family in families
    }  # fmt: skip
    title = f"{table.name}, seed {case.seed}: between the parents of each merge, {len(chosen):,} test images"
    title += ", BatchNorm reset at every point" if prepare else ""
    figure = interpolation_figure(curves, gammas, title=title, metrics=WITHIN_TITLES)
    save_figure(figure, path)


def _draw_landscape(
    path: Path, table: Table, config: TableConfig, case: Case, spec: PermSpec, families: Sequence[Family]
) -> None:
    """The loss over the plane through all merges and their parents, brought into one order first."""
    families = [families[0], *(_aligned(family, families[0], case, spec) for family in families[1:])]
    networks, marks = [], []
    for family in families:
        start = len(networks)
        networks += [family.merged, *family.parents]
        marks.append(Marked(family.title, start, tuple(range(start + 1, len(networks)))))
    chosen = evenly(case.test_labels.shape[-1], config.landscape_images)
    landscape = loss_landscape(
        case.model.apply, networks, case.test_x[chosen], case.test_labels[..., chosen], case.tasks,
        points=config.landscape_points, prepare=_prepare(table, case, spec),
    )  # fmt: skip
    title = f"{table.name}, seed {case.seed}: loss on {len(chosen):,} test images"
    save_figure(landscape_figure(landscape, marks, title=title), path)


def _aligned(family: Family, other: Family, case: Case, spec: PermSpec) -> Family:
    """The same networks with their units in the order of another family's."""
    matched = af.merge(other.merged, family.merged, spec, case.x, method="activation_matching")
    merged, *parents = (
        af.apply_perm(spec, params, matched.perms) for params in (family.merged, *family.parents)
    )
    return Family(family.title, merged, parents)
