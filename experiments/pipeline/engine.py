"""The engine of rows: makes, measures and keeps those of `merge.py`, `reproduce.py` and the figures alike."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from autofusion_jax.checkpoints.orbax_io import load, save
from autofusion_jax.evaluation.networks import Network
from autofusion_jax.evaluation.results import Result, summarise
from autofusion_jax.merging.result import MergeResult
from configs.schema import identity
from pipeline.endpoints import Pair, Run, network_meta
from pipeline.rows import Row, make_networks, num_repeats, plain, row_identity
from pipeline.store import Store, Stored, read_arrays, write_arrays

ROWS_FOLDER = "rows"
NOT_OF_ROWS = (
    "name", "seed", "pairs", "merge", "evaluate", "landscape_points", "landscape_images",
)  # fmt: skip
"""Fields of a config that a row depends on in no other way than its identity and the pair's seed say."""
ALIGNMENT = "alignment_"
"""With the number of a network: how its units go into the merged ones."""


def store_of(run: Run) -> Store:
    """The store of all runs in one folder."""
    return Store(Path(run.config.runs_dir) / ROWS_FOLDER, run.console)


def pair_key(pair: Pair) -> dict[str, Any]:
    """All that the networks of a pair and the inputs of its merges depend on."""
    fields = {name: v for name, v in identity(pair.run.config).items() if name not in NOT_OF_ROWS}
    return plain({
        **fields, "data_sha256": pair.run.data_sha256, "seed": pair.split.seed,
        "version": version("autofusion_jax"),
    })  # fmt: skip


def row_key(row: Row, pair: Pair) -> dict[str, Any]:
    """All that a row depends on."""
    config = pair.run.config
    named = {} if row.method else {"reference": row.name}
    own = {**row_identity(row, config), **named, "repeats": num_repeats(row, config)}
    return {"networks": pair_key(pair), "row": own}


def run_row(row: Row, pair: Pair) -> Stored:
    """Find a row of a pair in the store, or make and measure its networks and keep them."""
    store = store_of(pair.run)

    def make(work: Path) -> dict[str, Any]:
        networks = make_networks(row, pair)
        made = [_keep(work, store.folder / work.name, row, pair, network) for network in networks]
        return {"networks": made}

    return store.find_or_make(row.name, row_key(row, pair), make)


def _keep(work: Path, place: Path, row: Row, pair: Pair, network: Network) -> dict[str, Any]:
    """Measure a network, write it into the folder of its row; what is to be known of it."""
    metrics, kept = pair.evaluate(network), None
    if network.kept_at is not None:
        kept = os.path.relpath(network.kept_at, place)
    elif network.storable:
        kept = "_".join([*([network.variant] if network.variant else []), f"repeat{network.repeat}"])
        more = {"variant": network.variant, "repeat": network.repeat, "metrics": metrics}
        if network.result is not None:
            curves = {key: np.asarray(curve).tolist() for key, curve in network.result.history.items()}
            more |= {"diagnostics": dict(network.result.diagnostics), "history": curves}
        meta = network_meta(pair.run, pair.split, row.name, **more)
        save(work / kept, network.params, spec=pair.spec, meta=meta)
        if network.result is not None:
            write_arrays(_merge_file(work, network.repeat), _merge_arrays(network.result))
    return {
        "variant": network.variant, "repeat": network.repeat, "metrics": metrics,
        "num_learned": network.num_learned, "seconds": round(network.seconds, 3),
        "found": dict(network.found), "kept": kept,
    }  # fmt: skip


def results_of(stored: Stored, row: Row, pair: Pair, config: str, *, beside: Path | None) -> list[Result]:
    """The results of a row: one for each repeat and variant.

    Args:
        stored: the row, made.
        row: what it is called.
        pair: of which pair it is.
        config: what results call the config.
        beside: the folder that paths of checkpoints start from; None to leave them out.
    """
    return [
        Result(
            config, row.name, made["variant"], pair.split.number, made["repeat"], pair.split.seed,
            made["metrics"], made["num_learned"], made["seconds"],
            os.path.relpath(stored.folder / made["kept"], beside) if beside and made["kept"] else None,
            made["found"],
        )
        for made in stored.content["networks"]
    ]  # fmt: skip


def load_networks(stored: Stored, pair: Pair) -> list[Network]:
    """The merged networks of a row, as they were kept; those that are programs of their own are not."""
    return [
        Network(
            jax.tree.map(jnp.asarray, load(stored.folder / made["kept"]).params), pair.run.model.apply,
            made["variant"], made["repeat"], made["num_learned"], made["seconds"],
            load_merge(stored, made["repeat"]), found=made["found"],
        )
        for made in stored.content["networks"]
        if made["kept"]
    ]  # fmt: skip


def load_merge(stored: Stored, repeat: int = 0) -> MergeResult | None:
    """How networks were brought together in a merge of a row; its `params` are left out. None: no merge."""
    path = _merge_file(stored.folder, repeat)
    if not path.is_file():
        return None
    arrays = {name: jnp.asarray(value) for name, value in read_arrays(path).items()}
    parts: dict[str, dict[str, Array]] = {}
    for name, value in arrays.items():
        part, _, group = name.partition("/")
        parts.setdefault(part, {})[group] = value
    weights = tuple(map(float, parts.pop("weights", {}).get("", ())))
    alignments = [parts.get(f"{ALIGNMENT}{place}", {}) for place in range(len(weights))]
    return MergeResult(
        None, None, parts.get("perms", {}), tuple(alignments), weights, parts.get("soft_perms", {})
    )


def _merge_file(folder: Path, repeat: int) -> Path:
    return folder / f"merge_repeat{repeat}.npz"


def _merge_arrays(result: MergeResult) -> dict[str, Array]:
    """Permutations, alignments and weights of a merge, by `PART/GROUP`."""
    parts = {"perms": result.perms, "soft_perms": result.soft_perms}
    parts |= {f"{ALIGNMENT}{place}": groups for place, groups in enumerate(result.alignments)}
    arrays = {f"{part}/{group}": value for part, groups in parts.items() for group, value in groups.items()}
    return arrays | {"weights": jnp.asarray(result.weights)}


def report(
    console: Console,
    title: str,
    results: Sequence[Result],
    shown: Mapping[str, str],
    stored: Stored,
    *,
    left: int | None = None,
) -> None:
    """Print one line for every variant of a row, the mean over its repeats: numbers that are in the table.

    Args:
        console: where.
        title: what the table calls the row.
        results: those of the row, of one pair.
        shown: metric -> what the line calls it; those that the row has are shown.
        stored: the row in the store.
        left: how many rows are still to come, if that is known.
    """
    how = "" if stored.is_new else f", found in {stored.folder}"
    found = "".join(f", {name} {value:g}" for name, value in results[0].found.items())
    to_go = "" if left is None else f"; {left} row(s) to go"
    for one in summarise(results):
        name = f"{title}, {one.variant}" if one.variant else title
        means = [f"{said} {one.mean[metric]:.2f}" for metric, said in shown.items() if metric in one.mean]
        console.print(
            f"seed {results[0].seed}: {name}: {', '.join(means) or 'measured'} "
            f"({one.seconds:.1f} s{found}{how}){to_go}",
            soft_wrap=True,
        )
