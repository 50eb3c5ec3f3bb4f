"""What the page says in numbers: the networks of each setting, and their table with mean and spread."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from autofusion_jax.evaluation.results import Result, Summary, summarise
from pipeline.endpoints import MODEL_ROLES
from pipeline.reference_rows import ENSEMBLE
from reporting.tables import heading, title_of
from webreport.collect import Published, RunFolder

MERGED, SOME, HEADS, SPECIALIST, START = "merge", "merge of some", "several heads", "specialist", "start"
TEACHER, ORACLE, CONTROL, REFERENCE = "ensemble", "oracle", "control", "reference"
LARGER = "larger network"
PREFIXES = {
    **dict.fromkeys(MODEL_ROLES, SPECIALIST),
    "teacher_": TEACHER, "control_": CONTROL, "real_labels_": REFERENCE, "start": START,
    "max_model": TEACHER, "wemoe": LARGER, "smile": LARGER, "pareto": LARGER, "surgery": LARGER,
}  # fmt: skip
ENSEMBLES = ("ensemble", "_ensemble")
PLAIN, PAPER = ("interpolation", "average"), "autofusion_paper"
"""Methods that others are compared with: averages of the weights, the paper's."""
UNTOLD = "joint"
"""The metric by which no network is told an image's task: there the networks side by side are a teacher."""
RANKING = ("joint", "avg", "avg_within", "seen_within", "scaled")
"""Metrics that networks are compared by: the first of them among the columns of a setting."""


class Cell(NamedTuple):
    """A cell of a table: what is shown, small what belongs to it (the spread), whether it is a number."""

    text: str
    small: str = ""
    number: bool = True


MISSING = Cell("–")


@dataclasses.dataclass(frozen=True)
class Line:
    """One method and variant in a setting.

    Attributes:
        title: what the page calls it.
        method: registry name of its method, or its row name.
        kind: what kind of network it is, see `kind_of`.
        row: our numbers.
        published: metric -> the published accuracy in percent.
        paper: whether it is the paper's method in the paper's settings, or in those but for some.
        aligned: whether the networks were brought to one order first.
    """

    title: str
    method: str
    kind: str
    row: Summary
    published: Mapping[str, float]
    paper: bool = False
    aligned: bool = False

    def accuracy(self, metric: str) -> Cell:
        """The mean, with the spread over pairs, or over repeats where there is one pair."""
        if metric not in self.row.mean:
            return MISSING
        measured = self.row.num_pairs > 1 or self.row.num_repeats > 1
        return Cell(f"{self.row.mean[metric]:.2f}", f"± {self.spread(metric):.2f}" if measured else "")

    def spread(self, metric: str) -> float:
        """The standard deviation over pairs, or over repeats where there is one pair; 0 of one network."""
        return (self.row.std_pairs if self.row.num_pairs > 1 else self.row.std_repeats)[metric]


class TableLine(NamedTuple):
    """A line of a table: its heading, its other cells, whether it stands out, the section it leads to."""

    title: str
    cells: list[Cell]
    best: bool = False
    anchor: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the page, and a sentence under it."""

    caption: str
    headings: list[str]
    lines: list[TableLine]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One config of a run, summarised.

    Attributes:
        name: of the config.
        anchor: of the section that shows it.
        lines: its rows in the order of the run.
        metrics: the columns of its table.
        metric: what its networks are ranked by; empty if none of `RANKING` was measured.
    """

    name: str
    anchor: str
    lines: list[Line]
    metrics: list[str]
    metric: str

    def best(self, lines: Iterable[Line]) -> Line | None:
        """The line of highest accuracy, or None of none."""
        return max(
            (line for line in lines if self.metric in line.row.mean),
            key=lambda line: line.row.mean[self.metric], default=None,
        )  # fmt: skip

    def of_kind(self, kind: str) -> Line | None:
        """The best of a kind."""
        return self.best(line for line in self.lines if line.kind == kind)

    def of_average(self) -> Line | None:
        """The average of the weights; of networks aligned first only where there is no other."""
        lines = [line for line in self.lines if line.method in PLAIN and line.kind == MERGED]
        return self.best(line for line in lines if not line.aligned) or self.best(lines)

    def of_paper(self) -> Line | None:
        """The best merge in the paper's settings."""
        return self.best(line for line in self.lines if line.paper and line.kind == MERGED)


def kind_of(method: str) -> str:
    """Which kind of network a row is.

    Example:
        >>> kind_of("zipit"), kind_of("z_ensemble"), kind_of("model_a"), kind_of("model_stock")
        ('merge', 'ensemble', 'specialist', 'merge')
    """
    known = (kind for prefix, kind in PREFIXES.items() if method.startswith(prefix))
    return next(known, TEACHER if method.endswith(ENSEMBLES) else MERGED)


def settings(run: RunFolder, anchor: str, title: str) -> list[Setting]:
    """Summarise each config of a run, in order of appearance.

    Args:
        run: the run.
        anchor: of the section that shows it.
        title: what a run of `merge.py` is called.
    """
    names = list(dict.fromkeys(record.config for record in run.records))
    found = []
    for name in names:
        records = [record for record in run.records if record.config == name]
        lines = _lines(run, records, run.lines if len(names) == 1 else ())
        metrics = _metrics(run, lines)
        metric = next((metric for metric in metrics if metric in RANKING), "")
        if metric != UNTOLD:
            lines = [
                dataclasses.replace(line, kind=ORACLE) if line.method == ENSEMBLE else line for line in lines
            ]
        found.append(Setting(f"table {name}" if run.table else title, anchor, lines, metrics, metric))
    return found


def _lines(run: RunFolder, records: Sequence[Result], stored: Sequence[Published]) -> list[Line]:
    rows = summarise(records)
    order = list(run.rows)
    rows.sort(key=lambda row: order.index(row.method) if row.method in order else len(order))
    lines = []
    for number, row in enumerate(rows):
        line = stored[number] if len(stored) == len(rows) else None
        entry = run.rows.get(row.method, {})
        method = entry.get("method") or row.method
        published = {m: value for m, value in line.values.items() if value is not None} if line else {}
        title = line.title if line else title_of(row.method, row.variant)
        paper = method == PAPER
        kind, aligned = _kind(row.method, method, entry), bool(entry.get("align"))
        lines.append(Line(title, method, kind, row, published, paper, aligned))
    return lines


def _as_oracle(line: Line) -> Line:
    """The networks side by side where the task of an input is told: its own network answers."""
    return dataclasses.replace(line, kind=ORACLE)


def _kind(name: str, method: str, entry: Mapping[str, Any]) -> str:
    """The kind of a table's row: by its settings where they say it, else by its name and method."""
    if "stop_at" in entry.get("options", {}):
        return HEADS
    if entry.get("real_labels") is not None:
        return REFERENCE
    if entry.get("members"):
        return SOME
    kind = kind_of(name)
    return kind if kind != MERGED else kind_of(method)


def _metrics(run: RunFolder, lines: Sequence[Line]) -> list[str]:
    """The columns of a table: its own, or all accuracies over all classes, or those within tasks."""
    measured = list(dict.fromkeys(metric for line in lines for metric in line.row.mean))
    own = [metric for metric in (run.lines[0].values if run.lines else ()) if metric in measured]
    return own or overall(measured)


def overall(metrics: Sequence[str]) -> list[str]:
    """Those over all classes; where there are none, those within tasks."""
    return [metric for metric in metrics if not metric.endswith("_within")] or list(metrics)


def results_table(setting: Setting, caption: str, note: str) -> Table:
    """The table of a setting: every row with its accuracies, what it learned and how long it took."""
    lines, headings = setting.lines, ["Method", "Kind"]
    published = {metric for line in lines for metric in line.published}
    for metric in setting.metrics:
        headings += [heading(metric), *(["paper"] if metric in published else [])]
    both = any(line.row.num_pairs > 1 and line.row.num_repeats > 1 for line in lines)
    headings += [*(["± repeats"] if both else []), "Learned", "Seconds"]
    best = setting.of_kind(MERGED)
    rows = []
    for line in lines:
        cells = [Cell(line.kind, number=False)]
        for metric in setting.metrics:
            cells.append(line.accuracy(metric))
            if metric in published:
                cells.append(number(line.published.get(metric)))
        if both:
            cells.append(
                number(line.row.std_repeats.get(setting.metric) if line.row.num_repeats > 1 else None)
            )
        learned = line.row.num_learned
        cells.append(Cell(f"{learned:,}") if learned else MISSING)
        cells.append(Cell(f"{line.row.seconds:,.1f}"))
        rows.append(TableLine(line.title, cells, line is best))
    return Table(caption, headings, rows, note)


def number(value: float | None) -> Cell:
    """A number without spread, or a dash."""
    return MISSING if value is None else Cell(f"{value:.2f}")
