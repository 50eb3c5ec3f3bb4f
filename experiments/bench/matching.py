"""Weight matching against the plain loop of Git Re-Basin, compilation included.

    python experiments/bench/matching.py [--networks=mlp,vgg16,resnet20x4] [--repeats=3] [--out=FILE.json]

The plain loop is written after the published one: for every group in every sweep it permutes all
leaves that carry it, multiplies them in eager jax, and hands the sum to scipy; it leaves out
nothing. Both match two independent random networks in the same visit order and must find the
same permutations in the same number of sweeps. Every run is a process of its own, without a
compilation cache on disk, and ours and theirs take turns; the clock starts when jax is up and the
networks are on the device. "first" has all compilation in it, "again" is a second run in the same
process. Medians over --repeats. Takes about five minutes on a 2-core CPU.

Expect a ratio of 3 or more on the MLP and on VGG16, and 1 or more on ResNet20x4.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
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
from scipy.optimize import linear_sum_assignment

import autofusion_jax as af
from autofusion_jax.merging.matching.weight_matching import match_weights

_NETWORKS = flags.DEFINE_list("networks", ["mlp", "vgg16", "resnet20x4"], "Networks to match.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each, of which the median counts.")
_OUT = flags.DEFINE_string("out", None, "Where to write the numbers as JSON.")
_ONLY = flags.DEFINE_string("only", None, "For the child processes: LOOP:NETWORK, one run, printed as JSON.")

MAX_SWEEPS = 100
NetworkTable = dict[str, tuple[str | None, ...]]
"""Leaf path -> the group of each axis, None where nothing may move."""
Shapes = dict[str, tuple[int, ...]]


class Layers:
    """Collects the leaves of a network, their shapes and the groups of their axes."""

    def __init__(self) -> None:
        self.table: NetworkTable = {}
        self.shapes: Shapes = {}

    def add(self, name: str, shape: tuple[int, ...], reads: str | None, writes: str | None) -> None:
        """A kernel `[*window, in, out]`."""
        self.shapes[f"{name}/kernel"] = shape
        self.table[f"{name}/kernel"] = (*(None,) * (len(shape) - 2), reads, writes)

    def vectors(self, name: str, size: int, group: str | None, *leaves: str) -> None:
        """Biases or scales."""
        for leaf in leaves:
            self.shapes[f"{name}/{leaf}"], self.table[f"{name}/{leaf}"] = (size,), (group,)


def mlp() -> Layers:
    """784 inputs, 6 hidden layers of 512 units, 10 classes."""
    net, widths = Layers(), [784, *[512] * 6, 10]
    for i in range(7):
        group = f"P{i}" if i < 6 else None
        net.add(f"dense_{i}", (widths[i], widths[i + 1]), f"P{i - 1}" if i else None, group)
        net.vectors(f"dense_{i}", widths[i + 1], group, "bias")
    return net


def vgg16() -> Layers:
    """13 convolutions 3 x 3 of 64 to 512 channels with biases, and a dense head: CIFAR's VGG16."""
    net, widths = Layers(), [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    for i in range(13):
        net.add(f"conv_{i}", (3, 3, widths[i], widths[i + 1]), f"P{i - 1}" if i else None, f"P{i}")
        net.vectors(f"conv_{i}", widths[i + 1], f"P{i}", "bias")
    net.add("head", (512, 10), "P12", None)
    net.vectors("head", 10, None, "bias")
    return net


def resnet20x4() -> Layers:
    """3 stages of 3 blocks with 64, 128 and 256 channels, norms with scale and bias, 3 x 3 shortcuts."""
    net, stream, width = Layers(), "stream_0", 64
    net.add("stem", (3, 3, 3, 64), None, stream)
    net.vectors("stem_norm", 64, stream, "scale", "bias")
    for stage in range(3):
        for block in range(3):
            name, out, target = f"block_{stage}{block}", 64 * 2**stage, f"stream_{stage}"
            net.add(f"{name}/conv_1", (3, 3, width, out), stream, name)
            net.vectors(f"{name}/norm_1", out, name, "scale", "bias")
            net.add(f"{name}/conv_2", (3, 3, out, out), name, target)
            net.vectors(f"{name}/norm_2", out, target, "scale", "bias")
            if stage and not block:
                net.add(f"{name}/shortcut", (3, 3, width, out), stream, target)
                net.vectors(f"{name}/shortcut_norm", out, target, "scale", "bias")
            stream, width = target, out
    net.add("head", (256, 10), stream, None)
    net.vectors("head", 10, None, "bias")
    return net


NETWORKS = {"mlp": mlp, "vgg16": vgg16, "resnet20x4": resnet20x4}


def draw(shapes: Shapes, seed: int) -> dict[str, Array]:
    """He's initialisation; biases and scales scattered by a tenth."""
    rng = np.random.default_rng(seed)

    def leaf(path: str, shape: tuple[int, ...]) -> Array:
        spread = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1
        return jnp.asarray(path.endswith("scale") + spread * rng.standard_normal(shape), jnp.float32)

    return {path: leaf(path, shape) for path, shape in shapes.items()}


def spec_of(table: NetworkTable, params: dict[str, Array]) -> af.PermSpec:
    def axis(group: str | None, last: bool) -> Any:
        return None if group is None else (af.out_axis if last else af.in_axis)(group)

    patterns = {
        path: [axis(group, k == len(groups) - 1) for k, group in enumerate(groups)]
        for path, groups in table.items()
    }
    return af.PermSpec.from_table(patterns, params)


def plain_loop(
    table: NetworkTable, names: list[str], a: dict[str, Array], b: dict[str, Array], visit_order: np.ndarray
) -> tuple[dict[str, Array], int]:
    """Every cost matrix anew in eager jax, from all leaves, and every group assigned in every sweep."""
    carriers = {
        name: [(path, axis) for path, groups in table.items() for axis, g in enumerate(groups) if g == name]
        for name in names
    }
    sizes = {name: a[places[0][0]].shape[places[0][1]] for name, places in carriers.items()}
    perms = {name: jnp.arange(size) for name, size in sizes.items()}
    for sweep, order in enumerate(visit_order):
        progress = False
        for name in (names[number] for number in order):
            n = sizes[name]
            similarity = jnp.zeros((n, n))
            for path, axis in carriers[name]:
                other = b[path]
                for k, group in enumerate(table[path]):
                    if group is not None and k != axis:
                        other = jnp.take(other, perms[group], axis=k)
                rows = [jnp.moveaxis(leaf, axis, 0).reshape(n, -1) for leaf in (a[path], other)]
                similarity += rows[0] @ rows[1].T
            _, best = linear_sum_assignment(np.asarray(similarity), maximize=True)
            before, after = (jnp.vdot(similarity, jnp.eye(n)[p]) for p in (perms[name], best))
            progress = progress or bool(after > before + 1e-12)
            perms[name] = jnp.asarray(best)
        if not progress:
            return perms, sweep + 1
    return perms, len(visit_order)


def run_once(loop: str, network: str) -> dict[str, Any]:
    """Match twice in this process; the seconds of both, and a digest of what was found."""
    net = NETWORKS[network]()
    a, b = draw(net.shapes, 0), draw(net.shapes, 1)
    spec = spec_of(net.table, a)
    names = list(spec.groups)
    rng = np.random.default_rng(2)
    order = rng.permuted(np.tile(np.arange(len(names)), (MAX_SWEEPS, 1)), axis=1)
    jax.block_until_ready((a, b))

    def ours() -> tuple[dict[str, Array], int]:
        match = match_weights(spec, a, b, order)
        return match.perms, match.sweeps

    match: Callable[[], tuple[dict[str, Array], int]] = ours
    if loop == "plain":
        match = lambda: plain_loop(net.table, names, a, b, order)  # noqa: E731
    seconds, found = [], []
    for _ in range(2):
        start = time.perf_counter()
        perms, sweeps = match()
        seconds.append(time.perf_counter() - start)
        digest = hashlib.sha256(b"".join(np.asarray(perms[name], np.int64).tobytes() for name in names))
        found.append((digest.hexdigest(), sweeps))
    assert found[0] == found[1]
    return {"first": seconds[0], "again": seconds[1], "digest": found[0][0], "sweeps": found[0][1]}


def run_apart(loop: str, network: str) -> dict[str, Any]:
    """`run_once` in a fresh process, without a compilation cache."""
    command = [sys.executable, __file__, f"--only={loop}:{network}"]
    env = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(_: list[str]) -> None:
    if _ONLY.value:
        print(json.dumps(run_once(*_ONLY.value.split(":"))))
        return
    console, rows = Console(width=110), []
    table = Table(
        "network", "sweeps", "plain first", "ours first", "ratio", "plain again", "ours again", "ratio"
    )
    for network in _NETWORKS.value:
        with console.status(network):
            runs = [(run_apart("plain", network), run_apart("ours", network)) for _ in range(_REPEATS.value)]
        found = {(run["digest"], run["sweeps"]) for pair in runs for run in pair}
        assert len(found) == 1, f"{network}: the permutations differ"
        row: dict[str, Any] = {"network": network, "sweeps": runs[0][0]["sweeps"]}
        for when in ("first", "again"):
            plain, ours = (statistics.median(pair[k][when] for pair in runs) for k in range(2))
            row |= {f"plain_{when}": plain, f"ours_{when}": ours, f"ratio_{when}": plain / ours}
        rows.append(row)
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(f"{jax.default_backend()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seconds")
    console.print(table)
    if _OUT.value:
        Path(_OUT.value).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)
