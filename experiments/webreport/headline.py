"""The opening of the page: the best merge beside what it must be compared with."""

from collections.abc import Sequence
from typing import NamedTuple

from reporting.tables import heading
from webreport.summary import (
    CONTROL,
    MERGED,
    MISSING,
    ORACLE,
    REFERENCE,
    TEACHER,
    Cell,
    Line,
    Setting,
    Table,
    TableLine,
)

AVERAGE, ALIGNED = "plain average of the weights", "average of the aligned weights"
PAPER = "the paper's method"
BEST = "best merge into one network"
BOTH_RUN, TOLD = "teacher: all networks run", "oracle: told the task, all networks kept"
SIMPLER = "control: one network without merging"
LABELLED = "reference: real labels"
NAMES = {
    AVERAGE: "the plain average",
    ALIGNED: "the average of the aligned networks",
    PAPER: "the paper's settings",
    BOTH_RUN: "the teacher, which runs all networks",
    TOLD: "the oracle, which is told the task",
    LABELLED: "training on real labels",
}
"""Role of a bar -> what a sentence calls it; controls have a sentence of their own."""
CONTROL_MARK = " (control)"
"""What the title of a control may end with."""
ABOVE, LEVEL, BELOW = "above", "level", "below"
ROUNDED = 0.05
"""Half of the last digit that a sentence gives: a smaller gap is none."""


class Bar(NamedTuple):
    """One bar of the headline: what it is, its line, whether it is the answer."""

    role: str
    line: Line
    best: bool = False


def headline(setting: Setting) -> list[Bar]:
    """The best one network beside the average, the paper's method, teacher, oracle, controls, reference.

    Where the best is the average or the paper's method, its bar says so, and is there once. Every control
    has a bar of its own: a merge is worth what it adds to them.
    """
    best, average = setting.of_kind(MERGED), setting.of_average()
    merges = {ALIGNED if average and average.aligned else AVERAGE: average, PAPER: setting.of_paper()}
    same = "".join(f": {role}" for role, line in merges.items() if best and line is best)
    bars = [
        *((role, line) for role, line in merges.items() if line is not best),
        (f"{BEST}{same}", best),
        (BOTH_RUN, setting.of_kind(TEACHER)),
        (TOLD, setting.of_kind(ORACLE)),
        *((SIMPLER, line) for line in controls(setting)),
        (LABELLED, setting.of_kind(REFERENCE)),
    ]
    return [Bar(role, line, line is best) for role, line in bars if line is not None]


def controls(setting: Setting) -> list[Line]:
    """The controls of a setting that were measured by its metric, in its order."""
    return [line for line in setting.lines if line.kind == CONTROL and setting.metric in line.row.mean]


def standing(line: Line, other: Line, metric: str) -> str:
    """Whether a line is above another, below, or level: nearer than the larger of their spreads."""
    gap = line.row.mean[metric] - other.row.mean[metric]
    if abs(gap) < max(line.spread(metric), other.spread(metric), ROUNDED):
        return LEVEL
    return ABOVE if gap > 0 else BELOW


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
    headings = ["Setting", "Accuracy", "Best merge", "Average", "Paper's method", "Teacher", "Oracle",
                "Best control", "Real labels"]  # fmt: skip
    rows = []
    for setting in all_settings:
        best, average = setting.of_kind(MERGED), setting.of_average()
        if best is None:
            continue
        shown, mean = (line.accuracy(setting.metric) if line else MISSING for line in (best, average))
        others = (setting.of_paper(), *(setting.of_kind(k) for k in (TEACHER, ORACLE, CONTROL, REFERENCE)))
        cells = [
            Cell(heading(setting.metric), number=False),
            shown._replace(small=", ".join(filter(None, [shown.small, best.title]))),
            mean._replace(small="aligned first") if average and average.aligned else mean,
            *(line.accuracy(setting.metric) if line else MISSING for line in others),
        ]  # fmt: skip
        control = setting.of_kind(CONTROL)
        if control and standing(best, control, setting.metric) != ABOVE:
            cells[-2] = cells[-2]._replace(small=f"{cells[-2].small} not beaten".strip())
        rows.append(TableLine(setting.name, cells, anchor=setting.anchor))
    return Table("The best merge of every setting, beside what it is compared with (%)", headings, rows)


def verdict(bars: Sequence[Bar], metric: str) -> list[str]:
    """How the best merge stands against each of the others but controls, in words."""
    best = next(bar.line for bar in bars if bar.best)
    found = []
    for bar in bars:
        if bar.role not in NAMES:
            continue
        place, name = _place(best, bar.line, metric), NAMES[bar.role]
        level = standing(best, bar.line, metric) == LEVEL
        found.append(f"level with {name} ({place})" if level else f"{place} {name}")
    return found


def _place(best: Line, other: Line, metric: str) -> str:
    """How far a line is from another."""
    place = standing(best, other, metric)
    gap = f"{abs(best.row.mean[metric] - other.row.mean[metric]):.1f} points"
    return f"{gap} apart, within the spread" if place == LEVEL else f"{gap} {place}"


def unbeaten(setting: Setting) -> list[Line]:
    """The controls of a setting that its best merge is not above."""
    best = setting.of_kind(MERGED)
    return [line for line in controls(setting) if best and standing(best, line, setting.metric) != ABOVE]


def worth(setting: Setting) -> str:
    """What the best merge of a setting adds to its controls, in a sentence; empty without controls.

    A control is one network of the same size from the same images and pseudo-labels, without merging.
    """
    best, left, tried = setting.of_kind(MERGED), unbeaten(setting), controls(setting)
    if best is None or not tried:
        return ""
    if not left:
        return f"The best merge beats every control that was run: {', '.join(map(_quoted, tried))}."
    names = [f"{_quoted(line)} ({_place(best, line, setting.metric)})" for line in left]
    said = f"beats neither {' nor '.join(names)}" if len(names) > 1 else f"does not beat {names[0]}"
    all_left = len(left) == len(tried)
    end = "here merging is worth nothing" if all_left else "that way, without merging, does as well or better"
    return f"The best merge {said}: {end}."


def _quoted(control: Line) -> str:
    return f"“{control.title.removesuffix(CONTROL_MARK)}”"


def worth_of_all(all_settings: Sequence[Setting]) -> str:
    """In how many settings the best merge beats its controls; empty where no control was run."""
    tried = [setting for setting in all_settings if controls(setting)]
    if not tried:
        return ""
    every = sum(not unbeaten(setting) for setting in tried)
    none = sum(len(unbeaten(setting)) == len(controls(setting)) for setting in tried)
    some = len(tried) - every - none
    return (
        f"Controls were run in {len(tried)} of {len(all_settings)} settings. The best merge beats all "
        f"of them in {every}, some in {some}, and none in {none}, where merging is worth nothing."
    )
