"""Run the rows of a table on its endpoint pairs, going on from where an earlier run stopped."""

import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console

import autofusion_jax as af
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.reporting.records import Record, read_records, write_records, write_text
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import num_params
from autofusion_jax.types import ApplyFn, Params
from configs.schema import identity
from tables.schema import Case, Entry, Source, Table, TableConfig

CONFIG_FILE, RESULTS_FILE = "config.json", "results.jsonl"


@dataclasses.dataclass(frozen=True)
class Made:
    """A network that a row made, and what is known of it."""

    params: Params
    apply_fn: ApplyFn
    variant: str | None = None
    num_heads: int = 1
    num_learned: int = 0
    seconds: float = 0.0
    found: dict[str, float] = dataclasses.field(default_factory=dict)


def run_rows(
    table: Table, config: TableConfig, source: Source, console: Console, names: Sequence[str]
) -> tuple[Path, list[Record]]:
    """Run those rows of `names` that `results.jsonl` lacks; it is written again after every row.

    Returns:
        The folder of the results, and the records in the order of the table, pair by pair.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    folder = Path(config.out_dir or Path(config.runs_dir) / f"table_{table.name}")
    _claim(folder, table, config, source)
    path = folder / RESULTS_FILE
    records = read_records(path) if path.is_file() else []
    done = {(record.method, record.pair) for record in records}
    for number in range(config.pairs):
        missing = [
            entry for entry in table.entries if entry.name in names and (entry.name, number) not in done
        ]
        if not missing:
            continue
        case = source.open_pair(number)
        spec = case.model.perm_spec
        for entry in missing:
            for made in run_entry(table, entry, case, spec):
                records.append(_measure(table, entry, case, made))
                console.print(_line(case, entry, records[-1]))
            write_records(path, records)
    order = [entry.name for entry in table.entries]
    wanted = [record for record in records if record.method in order and record.pair < config.pairs]
    return folder, sorted(wanted, key=lambda record: (order.index(record.method), record.pair))


def _claim(folder: Path, table: Table, config: TableConfig, source: Source) -> None:
    """Write the resolved settings into a new folder, or check that those of an old one agree."""
    settings = {**identity(config), "data_sha256": source.sha256}
    free = ("pairs", "landscape_points", "landscape_images", "evaluate")  # still the same table
    rows = {entry.name: _resolved(table, entry) for entry in table.entries}
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
    text = json.dumps({"table": table.name, "config": settings, "rows": rows}, indent=2)
    write_text(path, text + "\n")


def _resolved(table: Table, entry: Entry) -> dict[str, Any]:
    correction = table.correction if entry.method else None
    return {
        "method": entry.method, "options": dict(entry.options), "correction": correction,
        "search": {name: list(values) for name, values in entry.search.items()},
    }  # fmt: skip


def _line(case: Case, entry: Entry, record: Record) -> str:
    found = "".join(f", {name} {value:g}" for name, value in record.found.items())
    name = f"{entry.title}, {record.variant}" if record.variant else entry.title
    return (
        f"seed {case.seed}: {name}: {record.metrics['avg_within']:.2f} % within tasks "
        f"({record.seconds:.1f} s{found})"
    )


def _measure(table: Table, entry: Entry, case: Case, made: Made) -> Record:
    metrics = evaluate(
        made.apply_fn, made.params, case.test_x, case.test_labels, case.tasks, num_heads=made.num_heads
    )
    return Record(
        table.name, entry.name, made.variant, case.number, 0, case.seed, metrics, made.num_learned,
        round(made.seconds, 3), None, made.found,
    )  # fmt: skip


def run_entry(table: Table, entry: Entry, case: Case, spec: PermSpec) -> list[Made]:
    """Make the networks of one row: one, or one for each variant of a merge."""
    if entry.method is None:
        return [_reference(entry.name, case)]
    start = time.perf_counter()
    result, found = merge_entry(table, entry, case, spec)
    jax.block_until_ready(result.params)
    seconds = time.perf_counter() - start
    apply_fn = result.apply_fn or case.model.apply
    return [
        Made(params, apply_fn, variant, result.num_heads, result.num_learned, seconds, found)
        for variant, params in (result.variants or {None: result.params}).items()
    ]


def _reference(name: str, case: Case) -> Made:
    if name == "ensemble":
        return Made(case.models, _Members(case.model.apply), num_heads=len(case.models))
    which = ("model_a", "model_b").index(name)
    params = case.models[which]
    return Made(params, case.model.apply, num_learned=num_params(params), seconds=case.seconds[which])


@dataclasses.dataclass(frozen=True)
class _Members:
    """All networks run side by side: one head each."""

    apply_fn: ApplyFn

    def __call__(self, models: tuple[Params, ...], x: Array) -> Array:
        return jnp.stack([self.apply_fn(params, x) for params in models])


def merge_entry(
    table: Table, entry: Entry, case: Case, spec: PermSpec
) -> tuple[af.MergeResult, dict[str, float]]:
    """Merge a pair as a row says; of several settings the best on the calibration images.

    Returns:
        The merge, and the settings that were found.
    """
    best: tuple[float, af.MergeResult, dict[str, float]] | None = None
    for values in itertools.product(*entry.search.values()):
        chosen = dict(zip(entry.search, values))
        result = merge_once(entry, case, spec, chosen, correction=table.correction)
        if not entry.search:
            return result, {}
        apply_fn = result.apply_fn or case.model.apply
        metrics = evaluate(apply_fn, result.params, case.x, case.y, case.tasks, num_heads=result.num_heads)
        if best is None or metrics["avg_within"] > best[0]:
            best = metrics["avg_within"], result, chosen
    assert best is not None, entry.name
    return best[1], best[2]


def merge_once(
    entry: Entry, case: Case, spec: PermSpec, found: Mapping[str, Any], *, correction: str | None
) -> af.MergeResult:
    """Merge a pair as a row says, with the settings that its search found."""
    key = jax.random.fold_in(jax.random.key(case.seed), 100)
    return af.merge(
        *case.models, spec, case.x, method=entry.method or "", key=key, correction=correction,
        **entry.options, **found,
    )  # fmt: skip
