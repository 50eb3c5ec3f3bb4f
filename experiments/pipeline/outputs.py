"""The folder of a run: one job for every row of every pair, then the files made from them."""

import dataclasses
import json
import os
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from autofusion_jax.atomic import write_text
from autofusion_jax.checkpoints.orbax_io import save
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.plots.canvas import save_figure
from autofusion_jax.types import Perms, SoftPerms
from configs.schema import Config
from pipeline.baselines import REFERENCE_ROWS
from pipeline.endpoints import MODEL_ROLES, Setting, network_meta
from pipeline.rows import Outcome, PairContext, merge_row, soft_matrices
from reporting.figures import interpolation_figure, permutation_figure
from reporting.records import Record, read_records, summarise, write_records
from reporting.tables import markdown_table, rich_table, title_of

CONFIG_FILE, RESULTS_FILE, TABLE_FILE = "config.json", "results.jsonl", "table.md"
CURVE_FIGURE, PERMUTATION_FIGURE = "interpolation.png", "permutations.png"
LEVELS = ("teacher_confidence", "control_ridge_head", "real_labels_training")
MIXED = ("autofusion",)
"""Methods whose merged network is on no line between two networks: every unit has weights of its own."""


def open_run(setting: Setting) -> Path:
    """Make the folder of a run, or find the one of an earlier, unfinished run of the same config.

    Raises:
        ValueError: the folder named by `out_dir` holds another run.
        OSError: it cannot be written.
    """
    config, wanted = setting.config, json.loads(json.dumps(setting.identity))
    if config.out_dir:
        folder = Path(config.out_dir)
        if (folder / CONFIG_FILE).is_file() and _stored_config(folder) != wanted:
            raise ValueError(
                f"merge: out_dir must be new or hold a run of this very config; {folder} holds another. "
                "Name another folder."
            )
    else:
        found = sorted(Path(config.runs_dir).glob(f"{config.name}-*"), reverse=True)
        unfinished = (f for f in found if not (f / RESULTS_FILE).exists() and _stored_config(f) == wanted)
        fresh = Path(config.runs_dir) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = next(unfinished, fresh)
    if (folder / CONFIG_FILE).is_file():
        setting.console.print(f"going on in {folder}")
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    resolved = {**dataclasses.asdict(config), "data_sha256": setting.dataset.sha256}
    write_text(folder / CONFIG_FILE, json.dumps(resolved, indent=2))
    return folder


def _stored_config(folder: Path) -> dict | None:
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        for name in ("out_dir", "runs_dir"):
            stored.pop(name)
        stored["data"].pop("dir")
    except (OSError, ValueError, KeyError):
        return None
    return stored


def row_names(setting: Setting) -> list[str]:
    """The rows of the table, in its order: the endpoints, the methods, the other references.

    Of three tasks or more the other endpoints follow Model B.
    """
    merging = setting.config.merge
    endpoints = [name for name in merging.references if name.startswith("model_")]
    more = MODEL_ROLES[2 : len(setting.sizes)] if "model_b" in endpoints else ()
    others = [name for name in merging.references if name not in endpoints]
    return [*dict.fromkeys((*endpoints, *more)), *merging.methods, *others]


def run_job(folder: Path, context: PairContext, name: str) -> None:
    """Make, evaluate and store one row of one pair, unless an earlier run has."""
    path = _job_path(folder, context.pair.number, name)
    if path.is_file():
        return
    make = REFERENCE_ROWS.get(name)
    outcomes = make(context) if make else merge_row(context, name)
    records = [_store(folder, context, name, outcome) for outcome in outcomes]
    if context.pair.number == 0 and len(context.models) == 2:
        _store_drawings(path.with_suffix(".npz"), context, [o for o in outcomes if o.repeat == 0])
    write_records(path, records)
    joint = np.mean([record.metrics["joint"] for record in records])
    context.setting.console.print(f"seed {context.pair.seed}: {name} evaluated, joint {joint:.2f} %")


def _job_path(folder: Path, pair: int, name: str) -> Path:
    return folder / "jobs" / f"pair{pair}_{name}.jsonl"


def _store(folder: Path, context: PairContext, name: str, outcome: Outcome) -> Record:
    setting, pair = context.setting, context.pair
    metrics = context.evaluate(outcome)
    kept = None if outcome.kept_at is None else os.path.relpath(outcome.kept_at, folder)
    if kept is None and outcome.storable:
        variant = f"_{outcome.variant}" if outcome.variant else ""
        kept = f"checkpoints/pair{pair.number}/{name}{variant}_repeat{outcome.repeat}"
        result = outcome.result
        more = {"variant": outcome.variant, "repeat": outcome.repeat, "metrics": metrics}
        if result is not None:
            curves = {key: np.asarray(curve).tolist() for key, curve in result.history.items()}
            more |= {"diagnostics": dict(result.diagnostics), "history": curves}
        meta = network_meta(setting, pair, name, **more)
        save(folder / kept, outcome.params, spec=context.spec, meta=meta)
    return Record(
        setting.config.name, name, outcome.variant, pair.number, outcome.repeat, pair.seed,
        metrics, outcome.num_learned, round(outcome.seconds, 3), kept,
    )  # fmt: skip


def _store_drawings(path: Path, context: PairContext, outcomes: list[Outcome]) -> None:
    """Keep what the figures draw of a row's first repeat: curves and matrices, by label."""
    arrays: dict[str, np.ndarray] = {}
    for outcome in outcomes:
        result = outcome.result
        if result is None or not result.perms:
            continue
        perms = result.soft_perms if outcome.variant == "soft" else result.perms
        for metric, curve in _curve(context, perms).items():
            arrays[f"curve/{outcome.variant or ''}/{metric}"] = curve
        for group, matrix in soft_matrices(result, context.spec, outcome.variant).items():
            arrays[f"matrix/{outcome.variant or ''}/{group}"] = matrix
    if arrays:
        part = path.with_name(f".{path.stem}.part.npz")
        np.savez_compressed(part, allow_pickle=False, **arrays)
        part.replace(path)


def _curve(context: PairContext, perms: Perms | SoftPerms) -> dict[str, np.ndarray]:
    setting, options = context.setting, context.setting.config.evaluate
    labels = context.pair.test_labels
    chosen = evenly(labels.shape[-1], options.curve_images)
    return interpolation_curve(
        setting.model.apply, context.spec, context.params_a, context.params_b, perms,
        jnp.linspace(0, 1, options.curve_points), setting.test_x[chosen],
        labels[..., chosen], context.pair.tasks,
    )  # fmt: skip


def evenly(num_images: int, wanted: int) -> np.ndarray:
    """Evenly spaced test images: rows are sorted, so the first ones would not be representative."""
    return np.linspace(0, num_images - 1, min(wanted, num_images)).round().astype(int)


def finish_run(folder: Path, setting: Setting) -> None:
    """Make results, table and figures from the jobs of a run, and say what was written where."""
    config, console, notes = setting.config, setting.console, setting.dataset.notes
    names = row_names(setting)
    records = [
        record
        for name in names
        for pair in range(config.pairs)
        for record in read_records(_job_path(folder, pair, name))
    ]
    rows = summarise(records)
    title = f"{config.name}: accuracy on the test images (%)"
    written = _draw(folder, config, names, records)
    head = f"{title}, mean ± standard deviation over repeats; {config.pairs} pair(s), seed {config.seed}\n\n"
    write_text(
        folder / TABLE_FILE, head + markdown_table(rows) + "".join(f"\nNote: {note}\n" for note in notes)
    )
    write_records(folder / RESULTS_FILE, records)
    console.print(rich_table(rows, title, width=console.width))
    for note in notes:
        console.print(f"note: {note}")
    console.print(f"results in {folder}: {', '.join([RESULTS_FILE, TABLE_FILE, *written, CONFIG_FILE])}")


def _draw(folder: Path, config: Config, names: list[str], records: list[Record]) -> list[str]:
    curves: dict[str, dict[str, np.ndarray]] = {}
    matrices: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        path = _job_path(folder, 0, name).with_suffix(".npz")
        if not path.is_file():
            continue
        with np.load(path, allow_pickle=False) as stored:
            for key in stored.files:
                kind, variant, part = key.split("/", 2)
                group = curves if kind == "curve" else matrices
                group.setdefault(title_of(name, variant or None), {})[part] = stored[key]
    if not curves:
        return []
    levels = {
        title_of(r.method, None).split(" (")[0]: r.metrics["joint"]
        for r in records
        if r.pair == 0 and r.method in LEVELS
    }
    points = {
        f"{title_of(r.method, None)}: merged by weights of every unit": (0.5, r.metrics)
        for r in records
        if r.pair == r.repeat == 0 and r.method in MIXED and r.variant == "soft"
    }
    figure = interpolation_figure(
        curves, np.linspace(0, 1, config.evaluate.curve_points), levels=levels, points=points,
        title=f"{config.name}, seed {config.seed}: interpolated networks, "
        f"up to {config.evaluate.curve_images:,} test images",
    )  # fmt: skip
    save_figure(figure, folder / CURVE_FIGURE)
    matrices = {name: groups for name, groups in matrices.items() if "interpolation" not in name}
    if not matrices:
        return [CURVE_FIGURE]
    title = f"{config.name}, seed {config.seed}: permutations of B's units"
    save_figure(permutation_figure(matrices, title=title), folder / PERMUTATION_FIGURE)
    return [CURVE_FIGURE, PERMUTATION_FIGURE]
