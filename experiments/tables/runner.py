"""Run the rows of a table on its endpoint pairs, going on from where an earlier run stopped."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array
from rich.console import Console

from autofusion_jax.evaluation.accuracy import evaluate, task_masks
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.reporting.records import Record, read_records, summarise, write_records, write_text
from autofusion_jax.types import ApplyFn, Params
from configs.schema import identity
from pipeline.references import REFERENCE_ROWS
from pipeline.rows import Outcome, PairContext, build_method, merge_outcomes
from tables.schema import ENSEMBLE, Entry, Panel, Source, Table, TableConfig

CONFIG_FILE, RESULTS_FILE = "config.json", "results.jsonl"


def panel_folder(panel: Panel, config: TableConfig) -> Path:
    """Where the results of a panel lie."""
    return Path(config.out_dir) / panel.name


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
    _claim(folder, table, panel, config, source)
    path = folder / RESULTS_FILE
    records = read_records(path) if path.is_file() else []
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
    order = [entry.name for entry in panel.entries]
    wanted = [record for record in records if record.method in order and record.pair < config.pairs]
    return sorted(wanted, key=lambda record: (order.index(record.method), record.pair))


def panel_identity(config: TableConfig) -> dict[str, Any]:
    """What makes two runs of a panel the same: its settings but those that its rows stand for."""
    fields = identity(config)
    for name in ("methods", "references"):
        fields["merge"].pop(name)
    return fields


def _claim(folder: Path, table: Table, panel: Panel, config: TableConfig, source: Source) -> None:
    """Write the resolved settings into a new folder, or check that those of an old one agree."""
    settings = {**panel_identity(config), "data_sha256": source.sha256}
    free = ("pairs", "landscape_points", "landscape_images", "evaluate")  # still the same table
    rows = {entry.name: _resolved(panel, entry) for entry in panel.entries}
    path = folder / CONFIG_FILE
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        old, new = stored["rows"], json.loads(json.dumps(rows))
        now = json.loads(json.dumps(settings))
        same = all(stored["config"][name] == now[name] for name in now if name not in free)
        if not same or any(old[name] != new[name] for name in old if name in new):
            raise ValueError(
                f"reproduce: out_dir must be new or hold results of these settings; {folder} holds others. "
                "Name another folder by --out_dir."
            )
    folder.mkdir(parents=True, exist_ok=True)
    named = {"table": table.name, **({"panel": panel.name} if panel.name else {})}
    text = json.dumps({**named, "config": settings, "rows": rows}, indent=2)
    write_text(path, text + "\n")


def _resolved(panel: Panel, entry: Entry) -> dict[str, Any]:
    correction = panel.correction if entry.method else None
    more = {} if entry.real_labels is None else {"real_labels": entry.real_labels}
    more |= {"members": list(entry.members)} if entry.members else {}
    return {
        "method": entry.method, "options": dict(entry.options), "correction": correction,
        "search": {name: list(values) for name, values in entry.search.items()}, **more,
    }  # fmt: skip


def _report(
    console: Console, entry: Entry, context: PairContext, records: Sequence[Record], *, left: int
) -> None:
    """One line for every network, the mean over its repeats."""
    for row in summarise(records):
        found = "".join(f", {name} {value:g}" for name, value in records[0].found.items())
        name = f"{entry.title}, {row.variant}" if row.variant else entry.title
        joint = f"{row.mean['joint']:.2f} % joint, " if "joint" in row.mean else ""
        console.print(
            f"seed {context.pair.seed}: {name}: {joint}{row.mean['avg_within']:.2f} % within tasks "
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
    members = _Members(context.setting.model.apply)
    result = MergeResult(context.models, members, num_heads=len(context.models))
    return Outcome(context.models, members, result=result, storable=False)


@dataclasses.dataclass(frozen=True)
class _Members:
    """All networks run side by side: one head each."""

    apply_fn: ApplyFn

    def __call__(self, models: tuple[Params, ...], x: Array) -> Array:
        return jnp.stack([self.apply_fn(params, x) for params in models])


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
    pair = context.pair
    num_heads = outcome.result.num_heads if outcome.result else 1
    labels = pair.train_labels[..., pair.unlabelled]
    return evaluate(outcome.apply_fn, outcome.params, context.x, labels, pair.tasks, num_heads=num_heads)[
        "avg_within"
    ]


def merge_once(
    entry: Entry, context: PairContext, found: Mapping[str, Any], *, correction: str | None
) -> list[Outcome]:
    """Merge the networks of a pair as a row says, with the settings that its search found."""
    options = {**entry.options, **found}
    method = build_method(entry.method or "", context.setting.config, options)
    members = entry.members or range(len(context.models))
    models = [context.models[place] for place in members]
    x, pair = context.x, context.pair
    if entry.members:
        labels = pair.train_labels[..., pair.unlabelled]
        x = x[task_masks(labels, pair.tasks)[list(members)].any(0)]
    if entry.real_labels is None:
        return merge_outcomes(context, method, models, x, correction=correction)
    count = round(entry.real_labels * len(x))
    return merge_outcomes(context, method, models, (x[:count], context.y[:count]), correction=correction)
