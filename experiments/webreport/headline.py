"""What the page opens with: the best merge beside what it must be compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from autofusion_jax.reporting.tables import heading
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

PAPER = "autofusion_paper"
NAMES = {
    PLAIN: "the plain average",
    PAPER: "the paper's settings",
    TEACHER: "the teacher, which runs both networks",
    CONTROL: "the best control",
    REFERENCE: "training on all real labels",
}


class Bar(NamedTuple):
    """One bar of the headline: what it is, its line, whether it is the answer."""

    role: str
    line: Line
    best: bool = False


def headline(setting: Setting) -> list[Bar]:
    """The best one network beside the plain average, the paper's method, teacher, control, reference."""
    best, paper = setting.of_kind(MERGED), setting.of_method(PAPER)
    bars = [
        ("plain average of the weights", setting.of_method(PLAIN)),
        ("the paper's method", paper),
        ("best merge into one network", best),
        ("teacher: both networks run", setting.of_kind(TEACHER)),
        ("best control, one network", setting.of_kind(CONTROL)),
        ("reference: real labels", setting.of_kind(REFERENCE)),
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
            setting.of_method(PAPER), setting.of_method(PLAIN),
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
        name = NAMES.get(bar.line.method) or NAMES.get(bar.line.kind)
        if bar.best or name is None:
            continue
        gap = best.row.mean[metric] - bar.line.row.mean[metric]
        if round(abs(gap), 1) == 0:
            found.append(f"level with {name}")
        else:
            found.append(f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} {name}")
    return found
