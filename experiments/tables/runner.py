"""Run the rows of a table on its endpoint pairs, going on from where an earlier run stopped."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from autofusion_jax.evaluation.accuracy import evaluate, task_masks
from autofusion_jax.merging.result import MergeResult
from pipeline.baselines import REFERENCE_ROWS
from pipeline.rows import Outcome, PairContext, SideBySide, build_method, merge_outcomes
from reporting.records import Record, summarise, write_records
from tables.schema import ENSEMBLE, Entry, Panel, Source, Table, TableConfig
from tables.stored import RESULTS_FILE, claim, in_order, panel_folder, read_results

REPORTED = {"joint": "joint", "avg_within": "within tasks", "scaled": "of the networks' own performance"}
"""Metrics that are shown while rows are run."""


def run_rows(
    table: Table, panel: Panel, config: TableConfig, source: Source, console: Console, names: Sequence[str]
) -> list[Record]:
    """Run those rows of `names` that `results.jsonl` lacks; it is written again after every row.

    Returns:
        The records in the order of the panel, pair by pair.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    folder = panel_folder(panel, config)
    claim(folder, table, panel, config, source)
    path, records = folder / RESULTS_FILE, read_results(folder)
    done = {(record.method, record.pair) for record in records}
    for number in range(config.pairs):
        missing = [
            entry for entry in panel.entries if entry.name in names and (entry.name, number) not in done
        ]
        if not missing:
            continue
        context = source.open_pair(number)
        for place, entry in enumerate(missing):
            made = run_entry(entry, context, panel.correction)
            new = [_measure(table.label(panel), entry, context, outcome) for outcome in made]
            records += new
            write_records(path, records)
            left = sum(entry.name in names for entry in panel.entries) * (config.pairs - number - 1)
            _report(console, entry, context, new, left=left + len(missing) - place - 1)
    return in_order(panel, config, records)


def _report(
    console: Console, entry: Entry, context: PairContext, records: Sequence[Record], *, left: int
) -> None:
    """One line for every network, the mean over its repeats."""
    for row in summarise(records):
        found = "".join(f", {name} {value:g}" for name, value in records[0].found.items())
        name = f"{entry.title}, {row.variant}" if row.variant else entry.title
        means = [f"{row.mean[key]:.2f} % {words}" for key, words in REPORTED.items() if key in row.mean]
        console.print(
            f"seed {context.pair.seed}: {name}: {', '.join(means) or 'measured'} "
            f"({row.seconds:.1f} s{found}); {left} row(s) to go"
        )


def _measure(label: str, entry: Entry, context: PairContext, outcome: Outcome) -> Record:
    return Record(
        label, entry.name, outcome.variant, context.pair.number, outcome.repeat, context.pair.seed,
        context.evaluate(outcome), outcome.num_learned, round(outcome.seconds, 3), None, dict(outcome.found),
    )  # fmt: skip


def run_entry(entry: Entry, context: PairContext, correction: str | None) -> list[Outcome]:
    """Make the networks of one row: one for each repeat and variant."""
    if entry.method is not None:
        return _searched(entry, context, correction)
    return [_ensemble(context)] if entry.name == ENSEMBLE else REFERENCE_ROWS[entry.name](context)


def _ensemble(context: PairContext) -> Outcome:
    members = SideBySide(context.setting.model.apply)
    result = MergeResult(context.models, members, num_heads=len(context.models))
    return Outcome(context.models, members, result=result, storable=False)


def _searched(entry: Entry, context: PairContext, correction: str | None) -> list[Outcome]:
    """Merge as a row says; of several settings the best on the calibration images."""
    best, outcomes, seconds = -1.0, [], 0.0
    for values in itertools.product(*entry.search.values()):
        chosen = dict(zip(entry.search, values))
        made = merge_once(entry, context, chosen, correction=correction)
        if not entry.search:
            return made
        seconds += made[0].seconds
        score = _calibration_score(context, made[0])
        if score > best:
            best, outcomes = score, [outcome._replace(found=chosen) for outcome in made]
    return [outcome._replace(seconds=seconds) for outcome in outcomes]


def _calibration_score(context: PairContext, outcome: Outcome) -> float:
    """The mean accuracy within the tasks on the images that merges see."""
    num_heads = outcome.result.num_heads if outcome.result else 1
    labels, tasks = context.x_labels, context.pair.tasks
    return evaluate(outcome.apply_fn, outcome.params, context.x, labels, tasks, num_heads=num_heads)[
        "avg_within"
    ]


def merge_once(
    entry: Entry, context: PairContext, found: Mapping[str, Any], *, correction: str | None
) -> list[Outcome]:
    """Merge the networks of a pair as a row says, with the settings that its search found."""
    options = {**entry.options, **found, **(context.own_options(entry.method) if entry.own_inputs else {})}
    method = build_method(entry.method or "", context.setting.config, options)
    members = entry.members or range(len(context.models))
    models = [context.models[place] for place in members]
    x = context.x
    if entry.members:
        x = x[task_masks(context.x_labels, context.pair.tasks)[list(members)].any(0)]
    y = None
    if entry.real_labels is not None:
        count = round(entry.real_labels * len(x))
        x, y = x[:count], context.y[:count]
    base = context.start if entry.from_start else None
    return merge_outcomes(
        context, method, models, x, labels=y, correction=correction, align=entry.align, base=base
    )
