"""Figures of all tasks of a panel: accuracies on a radar chart, and how alike task vectors are."""

from collections.abc import Sequence
from pathlib import Path

from autofusion_jax.evaluation.results import Result, Summary, summarise
from autofusion_jax.evaluation.similarity import task_vector_cosines
from autofusion_jax.plots.canvas import save_figure
from pipeline.endpoints import Run
from reporting.tables import heading
from reporting.task_figure import radar_figure, similarity_matrix_figure
from tables.schema import RADAR_FIGURE, TASK_VECTORS_FIGURE, Panel, TableConfig

MEANS = ("avg_within", "seen_within", "unseen_within")
"""What is measured within tasks, but of several at once."""


def draw_task_figures(
    folder: Path, panel: Panel, config: TableConfig, run: Run, records: Sequence[Result]
) -> None:
    """Draw the figures of all tasks that a panel asks for: the radar of the rows that are there."""
    if panel.radar:
        _draw_radar(folder / RADAR_FIGURE, panel, config, summarise(records))
    if panel.task_vectors and not (folder / TASK_VECTORS_FIGURE).is_file():
        _draw_task_vectors(folder / TASK_VECTORS_FIGURE, config, run)


def _draw_radar(path: Path, panel: Panel, config: TableConfig, rows: Sequence[Summary]) -> None:
    titles = {entry.name: entry.title for entry in panel.rows}
    drawn = {row.method: row.mean for row in rows if row.method in panel.radar}
    if not drawn:
        return
    measured = next(iter(drawn.values()))
    metrics = [metric for metric in measured if metric.endswith("_within") and metric not in MEANS]
    lines = {
        titles[name]: [drawn[name][metric] for metric in metrics] for name in panel.radar if name in drawn
    }
    names = [heading(metric.removesuffix("_within")) for metric in metrics]
    title = f"{config.name}, {config.pairs} seed(s) from {config.seed}: accuracy within each task"
    save_figure(radar_figure(lines, names, title=title), path)


def _draw_task_vectors(path: Path, config: TableConfig, run: Run) -> None:
    pair = run.pair(0)
    names = [heading(name) for name in pair.split.names[: len(pair.models)]]
    figure = similarity_matrix_figure(
        task_vector_cosines(pair.start, pair.models), names, label="cosine similarity",
        title=f"{config.name}, seed {pair.split.seed}: task vectors",
    )  # fmt: skip
    save_figure(figure, path)
