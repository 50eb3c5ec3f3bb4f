"""What the page opens with: the best merge beside what it must be compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from reporting.tables import heading
from webreport.summary import (
    CONTROL,
    MERGED,
    MISSING,
    PLAIN,
    REFERENCE,
    TEACHER,
    Cell,
    Line,
    Setting,
    Table,
    TableLine,
)

AVERAGE, PAPER = "plain average of the weights", "the paper's method"
BEST = "best merge into one network"
BOTH_RUN, SIMPLER = "teacher: both networks run", "best control, one network"
LABELLED = "reference: real labels"
NAMES = {
    AVERAGE: "the plain average",
    PAPER: "the paper's settings",
    BOTH_RUN: "the teacher, which runs both networks",
    SIMPLER: "the best control",
    LABELLED: "training on all real labels",
}
"""Role of a bar -> what a sentence calls it."""


class Bar(NamedTuple):
    """One bar of the headline: what it is, its line, whether it is the answer."""

    role: str
    line: Line
    best: bool = False


def headline(setting: Setting) -> list[Bar]:
    """The best one network beside the plain average, the paper's method, teacher, control, reference.

    Where the best is the plain average or the paper's method, its bar says so, and is there once.
    """
    best = setting.of_kind(MERGED)
    merges = {AVERAGE: setting.of_method(PLAIN), PAPER: setting.of_paper()}
    same = "".join(f": {role}" for role, line in merges.items() if best and line is best)
    bars = [
        *((role, line) for role, line in merges.items() if line is not best),
        (f"{BEST}{same}", best),
        (BOTH_RUN, setting.of_kind(TEACHER)),
        (SIMPLER, setting.of_kind(CONTROL)),
        (LABELLED, setting.of_kind(REFERENCE)),
    ]
    return [Bar(role, line, line is best) for role, line in bars if line is not None]


def main_setting(all_settings: Sequence[Setting]) -> Setting | None:
    """The setting that the page opens with: joint accuracy, the most compared, the most pairs, the best."""
    ranked = [setting for setting in all_settings if setting.metric and setting.of_kind(MERGED)]
    return max(ranked, key=_weight, default=None)


def _weight(setting: Setting) -> tuple[bool, int, int, int, float]:
    bars, rows = headline(setting), [line.row for line in setting.lines]
    best = next(bar.line.row.mean[setting.metric] for bar in bars if bar.best)
    repeats = sum(row.num_repeats for row in rows)
    return setting.metric == "joint", len(bars), rows[0].num_pairs, repeats, best


def overview_table(all_settings: Sequence[Setting]) -> Table:
    """One line for every setting: the bars of its headline as columns."""
    headings = ["Setting", "Accuracy", "Best merge", "Which", "Paper's method", "Average", "Teacher",
                "Control", "Real labels"]  # fmt: skip
    rows = []
    for setting in all_settings:
        best = setting.of_kind(MERGED)
        if best is None:
            continue
        others = (
            setting.of_paper(), setting.of_method(PLAIN),
            *(setting.of_kind(kind) for kind in (TEACHER, CONTROL, REFERENCE)),
        )  # fmt: skip
        cells = [
            Cell(None, heading(setting.metric)), best.accuracy(setting.metric), Cell(None, best.title),
            *(line.accuracy(setting.metric) if line else MISSING for line in others),
        ]  # fmt: skip
        rows.append(TableLine(setting.name, setting.anchor, False, cells))
    return Table("The best merge of every setting, beside what it is compared with (%)", headings, rows)


def verdict(bars: Sequence[Bar], metric: str) -> list[str]:
    """How the best merge stands against each of the others, in words."""
    best = next(bar.line for bar in bars if bar.best)
    found = []
    for bar in bars:
        if bar.best:
            continue
        name = NAMES[bar.role]
        gap = best.row.mean[metric] - bar.line.row.mean[metric]
        if round(abs(gap), 1) == 0:
            found.append(f"level with {name}")
        else:
            found.append(f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {name}")
    return found
