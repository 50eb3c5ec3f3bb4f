"""The folder of a run of `merge.py`: its config, its results, and the table and figures made from them."""

import contextlib
import glob
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from autofusion_jax.atomic import locked, write_text
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.evaluation.results import Result, summarise
from autofusion_jax.evaluation.tables import markdown_table, rich_table
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.plots.canvas import save_figure
from autofusion_jax.symmetry.spec import PermSpec
from configs.schema import Config, resolved
from data.files import DamagedFile
from pipeline.endpoints import Pair, Run
from pipeline.engine import ROWS_FOLDER, load_merge, report, results_of, row_key, run_row, store_of
from pipeline.records import CONFIG_FILE, RESULTS_FILE, RESULTS_SEAL, read_record, write_record, write_rows
from pipeline.reference_rows import REFERENCE_ROWS
from pipeline.rows import Row
from pipeline.split import MODEL_ROLES
from pipeline.store import Stored, read_arrays, write_arrays
from reporting.figures import interpolation_figure, permutation_figure
from reporting.tables import heading, row_title, title_of

TABLE_FILE = "table.md"
CURVE_FIGURE, PERMUTATION_FIGURE, DRAWN_FILE = "interpolation.png", "permutations.png", "drawn.npz"
LEVELS = ("teacher_confidence", "control_ridge_head", "real_labels_training")
MIXED = ("autofusion",)
"""Methods whose merged network is on no line between two networks: every unit has weights of its own."""

Drawn = dict[str, np.ndarray]
"""What the figures draw, by `METHOD/curve/VARIANT/METRIC` and `METHOD/matrix/VARIANT/GROUP`."""


@contextlib.contextmanager
def open_folder(run: Run) -> Iterator[Path]:
    """Make the folder of a run, or find the one of an earlier, unfinished run of the same config.

    It is this process's until the block ends: another one that names the same folder waits, and one that
    names none takes another.

    Raises:
        ValueError: the folder named by `out_dir` holds another run, or a damaged one.
        OSError: it cannot be written.
    """
    config, wanted = run.config, json.loads(json.dumps(run.identity))
    with contextlib.ExitStack() as held:
        if config.out_dir:
            folder = Path(config.out_dir)
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / CONFIG_FILE))
            _check_same(folder, wanted)
        else:
            folder = _take_folder(run, wanted, held)
        stored = read_record(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        if stored:
            run.console.print(f"going on in {folder}")
        settings = {**resolved(config), "data_sha256": run.data_sha256}
        kept = {name: stored[name] for name in (RESULTS_SEAL,) if name in stored}
        write_record(folder / CONFIG_FILE, {**settings, **kept})
        yield folder


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    if (folder / CONFIG_FILE).is_file() and _identity(read_record(folder / CONFIG_FILE)) != wanted:
        raise ValueError(
            f"merge: out_dir must be new or hold a run of this very config; {folder} holds another. "
            "Name another folder."
        )


def _take_folder(run: Run, wanted: Mapping[str, Any], held: contextlib.ExitStack) -> Path:
    """The latest unfinished folder of the same run that no other process is at work in, or a new one."""
    root, name = Path(run.config.runs_dir), run.config.name
    found = sorted(root.glob(f"{glob.escape(name)}-*"), reverse=True)
    fresh = root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    others = (fresh.with_name(f"{fresh.name}-{number}") for number in itertools.count(2))
    for folder in itertools.chain(filter(_is_open, found), [fresh], others):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as trying:
            try:
                trying.enter_context(locked(folder / CONFIG_FILE, wait=False))
                if _is_of(folder, wanted):
                    held.enter_context(trying.pop_all())
                    return folder
            except BlockingIOError:
                continue
            except DamagedFile as error:
                run.console.print(f"[yellow]left out:[/] {error}", soft_wrap=True)
    raise AssertionError("there is always another name")


def _is_open(folder: Path) -> bool:
    """Whether a folder may be gone on with, or has something of a killed process, which its lock removes."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [RESULTS_FILE]
    return RESULTS_FILE not in names or any(name.startswith(".") for name in names)


def _is_of(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a folder is empty, or of an unfinished run of this identity."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if CONFIG_FILE not in names:
        return not names
    return RESULTS_FILE not in names and _identity(read_record(folder / CONFIG_FILE)) == wanted


def _identity(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a stored run the same: its settings but where files lie, and what was found since."""
    places = {"out_dir", "runs_dir", RESULTS_SEAL}
    fields = {name: value for name, value in stored.items() if name not in places}
    if isinstance(fields.get("data"), dict):
        fields["data"] = {name: value for name, value in fields["data"].items() if name != "dir"}
    return fields


def run_rows(folder: Path, run: Run) -> list[Result]:
    """Run the rows of a config on all its pairs, and draw the first one's merges.

    Returns:
        The results, row by row, in the order of the table.
    """
    rows, found, config = _rows(run), [], run.config
    for number in range(config.pairs):
        pair = run.pair(number)
        kept = []
        for place, row in enumerate(rows, 1):
            stored = run_row(row, pair)
            new = results_of(stored, row, pair, config.name, beside=folder)
            found, kept = [*found, *new], [*kept, (row, stored)]
            left = len(rows) * (config.pairs - number) - place
            report(run.console, row.title, new, {"joint": heading("joint")}, stored, left=left)
        if number == 0 and len(pair.models) == 2:
            write_arrays(folder / DRAWN_FILE, _drawn(pair, kept))
    order = [row.name for row in rows]
    return sorted(found, key=lambda result: order.index(result.method))


def _rows(run: Run) -> list[Row]:
    """The rows of the table, in its order: the endpoints, the methods, the other references.

    Of three tasks or more the other endpoints follow Model B.
    """
    merging = run.config.merge
    endpoints = [name for name in merging.references if name.startswith("model_")]
    more = MODEL_ROLES[2 : len(run.sizes)] if "model_b" in endpoints else ()
    others = [name for name in merging.references if name not in endpoints]
    names = [*dict.fromkeys((*endpoints, *more)), *merging.methods, *others]
    return [Row(name, row_title(name), None if name in REFERENCE_ROWS else name) for name in names]


def _drawn(pair: Pair, kept: list[tuple[Row, Stored]]) -> Drawn:
    """Curves and matrices of the first repeat of each merge."""
    arrays: Drawn = {}
    for row, stored in kept:
        merge = load_merge(stored)
        if merge is None or not merge.perms:
            continue
        variants = [made["variant"] for made in stored.content["networks"] if made["repeat"] == 0]
        for variant in variants:
            for metric, curve in _curve(pair, row, merge, variant).items():
                arrays[f"{row.name}/curve/{variant or ''}/{metric}"] = curve
            for group, matrix in _matrices(merge, pair.spec, variant).items():
                arrays[f"{row.name}/matrix/{variant or ''}/{group}"] = matrix
    return arrays


def _curve(pair: Pair, row: Row, merge: MergeResult, variant: str | None) -> Mapping[str, np.ndarray]:
    """Accuracy from B, reordered, to A; kept like the row."""
    run, options = pair.run, pair.run.config.evaluate
    labels = pair.split.test_labels
    chosen = evenly(labels.shape[-1], options.curve_images)
    identity = {
        "merge": row_key(row, pair), "variant": variant, "points": options.curve_points,
        "images": len(chosen),
    }  # fmt: skip
    return store_of(run).arrays("curve", identity, lambda: interpolation_curve(
        run.model.apply, pair.spec, pair.params_a, pair.params_b,
        merge.soft_perms if variant == "soft" else merge.perms, jnp.linspace(0, 1, options.curve_points),
        run.test_x[chosen], labels[..., chosen], pair.split.tasks,
    ))  # fmt: skip


def _matrices(merge: MergeResult, spec: PermSpec, variant: str | None) -> dict[str, np.ndarray]:
    """The matrices `[n, n]` of a merge's groups."""
    if variant == "soft":
        return {name: np.asarray(matrix) for name, matrix in merge.soft_perms.items()}
    return {name: np.asarray(jnp.eye(group.size)[merge.perms[name]]) for name, group in spec.groups.items()}


def evenly(num_images: int, wanted: int) -> np.ndarray:
    """Evenly spaced test images: rows are sorted, so the first ones would not be representative."""
    return np.linspace(0, num_images - 1, min(wanted, num_images)).round().astype(int)


def finish_folder(folder: Path, run: Run, results: list[Result]) -> None:
    """Write results, table and figures of a run, and say what was written where."""
    config, console, summaries = run.config, run.console, summarise(results)
    title = f"{config.name}: accuracy on the test images (%)"
    written = _draw(folder, config, results)
    head = f"{title}, mean ± standard deviation over repeats; {config.pairs} pair(s), seed {config.seed}\n\n"
    table = markdown_table(summaries, name=row_title, heading=heading)
    write_text(folder / TABLE_FILE, head + table + "".join(f"\nNote: {note}\n" for note in run.notes))
    write_rows(folder, results)
    console.print(rich_table(summaries, title, width=console.width, name=row_title, heading=heading))
    for note in run.notes:
        console.print(f"note: {note}")
    console.print(f"results in {folder}: {', '.join([RESULTS_FILE, TABLE_FILE, *written, CONFIG_FILE])}")
    console.print(f"networks in {Path(config.runs_dir) / ROWS_FOLDER}; see results by experiments/report.py")


def _draw(folder: Path, config: Config, results: list[Result]) -> list[str]:
    """Draw the figures of what was kept of the first pair; returns their names."""
    curves: dict[str, dict[str, np.ndarray]] = {}
    matrices: dict[str, dict[str, np.ndarray]] = {}
    arrays = read_arrays(folder / DRAWN_FILE) if (folder / DRAWN_FILE).is_file() else {}
    for key, values in arrays.items():
        name, kind, variant, part = key.split("/", 3)
        group = curves if kind == "curve" else matrices
        group.setdefault(title_of(name, variant or None), {})[part] = values
    if not curves:
        return []
    levels = {
        title_of(r.method, None).split(" (")[0]: r.metrics["joint"]
        for r in results
        if r.pair == 0 and r.method in LEVELS
    }
    points = {
        f"{title_of(r.method, None)}: merged by weights of every unit": (0.5, r.metrics)
        for r in results
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
