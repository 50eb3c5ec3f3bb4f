"""Greedy zip against a search of the whole matrix for every merge; moments against numpy.

    python experiments/bench/zipping.py [--sizes=256,512,1024,2048] [--eager_up_to=1024] [--out=FILE.json]

All of it in one run, side by side. Two models of n units each; the features are random mixtures
after a ReLU, a = 0.3, b = 0.125. The naive loop keeps the matrix whole, masks what is gone and takes
an argmax over all of it for every merge: once in eager jax (each update makes a new matrix, as
in the published torch code), once in numpy, in place, which is the fastest that such a loop
gets. All three must find the same clusters. The eager loop is left out beyond --eager_up_to.

Then `batch_moments` and `stream_moments` of --samples x --units against numpy's covariance.
Seconds are the best of --repeats (of one for the eager loop), without compilation, which has
a column of its own. Takes about two minutes on a 2-core CPU.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import Array
from rich.console import Console
from rich.table import Table

from autofusion_jax.merging.zipping.greedy import zip_clusters
from autofusion_jax.symmetry.moments import batch_moments, stream_moments

_SIZES = flags.DEFINE_list("sizes", ["256", "512", "1024", "2048"], "Units of each model.")
_EAGER = flags.DEFINE_integer("eager_up_to", 1024, "Largest size at which the eager loop is run.")
_SAMPLES = flags.DEFINE_integer("samples", 60_000, "Samples whose moments are taken.")
_UNITS = flags.DEFINE_integer("units", 512, "Units whose moments are taken.")
_BATCH = flags.DEFINE_integer("batch", 1000, "Samples in a batch of the streamed moments.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs, of which the fastest counts.")
_OUT = flags.DEFINE_string("out", None, "Where to write the numbers as JSON.")

NUM_MODELS, A, B = 2, 0.3, 0.125


def time_of(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the seconds of the fastest run."""
    seconds = []
    result = None
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def correlations(n: int) -> np.ndarray:
    """Correlations of random features, exactly symmetric."""
    rng = np.random.default_rng(n)
    hidden = rng.standard_normal((4000, 64)) @ rng.standard_normal((64, NUM_MODELS * n))
    similarity = np.corrcoef(np.maximum(hidden, 0), rowvar=False).astype(np.float32)
    return np.maximum(similarity, similarity.T)


def self_merges_allowed(n: int) -> list[int]:
    return [int(n * (NUM_MODELS - 1) // NUM_MODELS * B + 1e-4)] * NUM_MODELS


def numpy_loop(similarity: np.ndarray) -> np.ndarray:
    """The cluster of each unit; the matrix is changed in place."""
    values = similarity.copy()
    rows = len(values)
    n = rows // NUM_MODELS
    units, left = np.arange(rows), self_merges_allowed(n)
    owner = units.copy()
    np.fill_diagonal(values, -np.inf)
    for _ in range(rows - n):
        row, column = sorted(divmod(int(np.argmax(values)), rows))
        owner[owner == column] = row
        values[row] = values[:, row] = np.minimum(values[row], values[column]) * np.float32(A)
        values[column] = values[:, column] = -np.inf
        model = row // n
        left[model] -= column // n == model
        if column // n == model and left[model] <= 0:
            closed = units[(owner == units) & (units // n == model)]
            values[np.ix_(closed, closed)] = -np.inf
    return owner


def eager_loop(similarity: Array, merges: int) -> np.ndarray:
    """The cluster of each unit after so many merges; jax, one operation at a time."""
    rows = len(similarity)
    n = rows // NUM_MODELS
    units, left = jnp.arange(rows), self_merges_allowed(n)
    owner = units
    values = similarity.at[units, units].set(-jnp.inf)
    for _ in range(merges):
        best = jnp.argmax(values)
        row, column = jnp.minimum(best // rows, best % rows), jnp.maximum(best // rows, best % rows)
        owner = jnp.where(owner == column, row, owner)
        merged = jnp.minimum(values[row], values[column]) * A
        values = values.at[row].set(merged).at[:, row].set(merged)
        values = values.at[column].set(-jnp.inf).at[:, column].set(-jnp.inf)
        model = int(row) // n
        left[model] -= int(column) // n == model
        if int(column) // n == model and left[model] <= 0:
            closed = (owner == units) & (units // n == model)
            values = jnp.where(closed[:, None] & closed, -jnp.inf, values)
    return np.asarray(owner)


def numbered(owner: np.ndarray) -> np.ndarray:
    """Clusters numbered by their first units."""
    return np.unique(owner, return_inverse=True)[1]


def measure_zip(n: int) -> dict[str, float]:
    """Seconds of the three loops on the same matrix."""
    on_host = correlations(n)
    similarity = jnp.asarray(on_host)
    _, first = time_of(lambda: zip_clusters(similarity, NUM_MODELS, a=A, b=B), 1)
    ours, seconds = time_of(lambda: zip_clusters(similarity, NUM_MODELS, a=A, b=B), _REPEATS.value)
    owner, in_numpy = time_of(lambda: numpy_loop(on_host), _REPEATS.value)
    np.testing.assert_array_equal(ours.labels, numbered(owner))
    row = {"n": n, "compile": first - seconds, "ours": seconds, "numpy": in_numpy}
    if n <= _EAGER.value:
        eager_loop(similarity, merges=2)  # compiles the operations
        owner, row["eager"] = time_of(lambda: eager_loop(similarity, merges=n), 1)
        np.testing.assert_array_equal(ours.labels, numbered(owner))
    return row


def growth(rows: list[dict[str, float]], name: str) -> float:
    """The exponent p of the fit seconds ~ n^p; NaN where there are not two sizes."""
    known = np.log([(row["n"], row[name]) for row in rows if name in row])
    return float(np.polyfit(known[:, 0], known[:, 1], 1)[0]) if len(known) > 1 else float("nan")


def measure_moments() -> list[dict[str, Any]]:
    """Seconds, and the largest error relative to the largest covariance, against float64."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((_SAMPLES.value, 64)) @ rng.standard_normal((64, _UNITS.value))
    on_host = np.maximum(mixed, 0).astype(np.float32)
    values = jnp.asarray(on_host)
    batches = [values[start : start + _BATCH.value] for start in range(0, len(values), _BATCH.value)]
    at_once = jax.jit(lambda x: batch_moments(x[None], 0))

    def streamed() -> Array:
        return stream_moments(capture, batches)["site"].cov

    ways: dict[str, Callable[[], Any]] = {
        "batch_moments": lambda: at_once(values).cov,
        "stream_moments": streamed,
        "numpy float64 (its default)": lambda: np.cov(on_host, rowvar=False, bias=True),
        "numpy float32": lambda: np.cov(on_host, rowvar=False, bias=True, dtype=np.float32),
    }
    exact = np.cov(on_host.astype(np.float64), rowvar=False, bias=True)
    rows = []
    for name, run in ways.items():
        run()
        found, seconds = time_of(run, _REPEATS.value)
        error = float(np.max(np.abs(np.asarray(found, np.float64) - exact)) / np.max(np.abs(exact)))
        rows.append({"what": name, "seconds": seconds, "error": error})
    return rows


def capture(batch: Array) -> dict[str, tuple[Array, int]]:
    return {"site": (batch[None], 0)}


def main(_: list[str]) -> None:
    console = Console()
    console.print(f"on {jax.default_backend()}; seconds")
    with console.status("zipping"):
        zips = [measure_zip(int(n)) for n in _SIZES.value]
    table = Table("n", "compile", "ours", "naive, eager jax", "ratio", "naive, numpy", "ratio")
    for row in zips:
        eager = row.get("eager")
        cells = ["left out", ""] if eager is None else [f"{eager:.2f}", f"{eager / row['ours']:.0f}"]
        cells += [f"{row['numpy']:.3f}", f"{row['numpy'] / row['ours']:.1f}"]
        table.add_row(str(row["n"]), f"{row['compile']:.2f}", f"{row['ours']:.4f}", *cells)
    exponents = {name: growth(zips, name) for name in ("ours", "eager", "numpy")}
    fitted = [f"n^{exponents[name]:.2f}" for name in ("ours", "eager", "numpy")]
    table.add_row("growth", "", fitted[0], fitted[1], "", fitted[2], "", end_section=True)
    console.print(table)
    with console.status("moments"):
        moments = measure_moments()
    table = Table(f"covariance of {_SAMPLES.value} x {_UNITS.value}", "seconds", "error against float64")
    for row in moments:
        table.add_row(row["what"], f"{row['seconds']:.3f}", f"{row['error']:.1e}")
    console.print(table)
    if _OUT.value:
        result = {"backend": jax.default_backend(), "zip": zips, "growth": exponents, "moments": moments}
        Path(_OUT.value).write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
