"""The files of a reproduced table: Markdown, CSV and figures, from the records of its panels."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from autofusion_jax.atomic import write_text
from autofusion_jax.evaluation.results import Result, Summary, summarise
from pipeline.endpoints import Run
from reporting.published import (
    Line,
    comparison_csv,
    comparison_markdown,
    comparison_table,
)
from tables.figures import draw_figures
from tables.overview import overview_markdown, overview_title
from tables.schema import Panel, Table, TableConfig
from tables.stored import StoredPanel, panel_folder, read_panel
from tables.sweeps import draw_sweeps
from tables.task_figures import draw_task_figures

TABLE_FILE, CSV_FILE = "results.md", "results.csv"


def panel_lines(panel: Panel, records: Sequence[Result]) -> list[Line]:
    """One line for every row of the panel and variant of it that was run or published; published numbers
    are beside the soft one."""
    rows = summarise(records)
    lines = []
    for entry in panel.rows:
        ours: list[Summary | None] = [row for row in rows if row.method == entry.name]
        for row in ours or ([None] if entry.published else []):
            title = f"{entry.title}, {row.variant}" if row and row.variant else entry.title
            rounded = row is not None and row.variant == "hard"
            lines.append(Line(title, row, {} if rounded else entry.published))
    return lines


def panel_markdown(panel: Panel, records: Sequence[Result]) -> str:
    """The numbers as Markdown."""
    return comparison_markdown(panel_lines(panel, records), panel.metrics, costs=panel.costs)


def panel_text(table: Table, panel: Panel, config: TableConfig, records: Sequence[Result]) -> str:
    """A panel as Markdown: heading, what was run, the numbers."""
    heading = f"# {heading_of(table, panel)}"
    return "\n\n".join([heading, *caption(panel, config, records), panel_markdown(panel, records)])


def heading_of(table: Table, panel: Panel) -> str:
    """What a panel is called."""
    return f"{table.title}: {panel.title}" if panel.title else table.title


def caption(panel: Panel, config: TableConfig, records: Sequence[Result]) -> list[str]:
    """What was run, and what the searches chose, in paragraphs."""
    rows = {row.method: row for row in summarise(records)}
    found = _found(panel, records)
    return [*panel.caption(config, rows), *([found] if found else [])]


def _found(panel: Panel, records: Sequence[Result]) -> str:
    """What the searches of each row chose, pair by pair."""
    parts = []
    for entry in panel.rows:
        for name in entry.search:
            values = [f"{r.found[name]:g}" for r in records if r.method == entry.name and name in r.found]
            if values:
                parts.append(f"{entry.title}: {name} {', '.join(values)}")
    return f"Found by search, pair by pair: {'; '.join(parts)}." if parts else ""


def total_seconds(records: Sequence[Result]) -> float:
    """What it took to make all networks, those of one merge counted once; evaluation is not in it."""
    return sum({(r.config, r.method, r.pair, r.repeat): r.seconds for r in records}.values())


def write_panel(table: Table, done: StoredPanel, run: Run, console: Console) -> None:
    """Write the table and the figures of one panel, and print the table."""
    panel, config, records = done.panel, done.config, done.records
    folder, lines = panel_folder(panel, config), panel_lines(panel, records)
    text = panel_text(table, panel, config, records)
    write_text(folder / TABLE_FILE, text + _notes([done]))
    write_text(folder / CSV_FILE, comparison_csv({panel.name: lines}, panel.metrics))
    draw_figures(folder, panel, config, run, records)
    draw_task_figures(folder, panel, config, run, records)
    title, width = heading_of(table, panel), console.width
    console.print(comparison_table(lines, panel.metrics, title, width=width, costs=panel.costs))
    for paragraph in [*caption(panel, config, records), *done.notes]:
        console.print(paragraph)


def write_table(table: Table, out_dir: str) -> list[str]:
    """Write what belongs to all panels that a folder holds: one table, one CSV, the figures.

    Returns:
        The names of the files in the folder.
    """
    stored = [done for panel in table.panels if (done := read_panel(panel, out_dir)) is not None]
    folder = Path(out_dir)
    if stored and stored[0].panel.name:
        sections = {done.panel.name: panel_lines(done.panel, done.records) for done in stored}
        metrics = list(dict.fromkeys(metric for done in stored for metric in done.panel.metrics))
        write_text(folder / TABLE_FILE, _all_panels(table, stored) + _notes(stored))
        write_text(folder / CSV_FILE, comparison_csv(sections, metrics))
    draw_sweeps(folder, table, {done.panel.name: (done.config, done.records) for done in stored})
    kinds = ("*.jsonl", "*.md", "*.csv", "*.png", "*.json")
    return [path.name for kind in kinds for path in sorted(folder.glob(kind))]


def _all_panels(table: Table, stored: Sequence[StoredPanel]) -> str:
    """The panels one after another; a paragraph that several share is said once."""
    parts, said = [f"# {table.title}"], set[str]()
    if table.overview:
        records = {done.panel.name: done.records for done in stored}
        parts += [overview_title(table), overview_markdown(table, records)]
    for done in stored:
        paragraphs = [text for text in caption(done.panel, done.config, done.records) if text not in said]
        said.update(paragraphs)
        parts += [f"## {done.panel.title}", *paragraphs, panel_markdown(done.panel, done.records)]
    return "\n\n".join(parts)


def _notes(stored: Sequence[StoredPanel]) -> str:
    notes = dict.fromkeys(note for done in stored for note in done.notes)
    seconds = total_seconds([record for done in stored for record in done.records])
    lines = [*(f"Note: {note}" for note in notes), f"Training and merging took {seconds:,.0f} s."]
    return "".join(f"\n{line}\n" for line in lines)
