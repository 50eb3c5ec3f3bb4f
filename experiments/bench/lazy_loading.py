"""Memory and seconds of reading one tensor, and all, of a large checkpoint in shards.

    python experiments/bench/lazy_loading.py

Writes a random GPT-2 classifier of 1 GB into a temporary folder, in the form of transformers; each
measurement is a process of its own, and `imports` is one that reads nothing. The file is in the
system's cache, since it was just written.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import autofusion_jax as af
from autofusion_jax.checkpoints.convert.format import check_config
from autofusion_jax.checkpoints.convert.formats import FORMATS
from autofusion_jax.checkpoints.safetensors_io import (
    INDEX,
    StoredLeaf,
    open_safetensors,
    stored_order,
    write_safetensors,
)
from autofusion_jax.models.registry import build_model
from autofusion_jax.trees import flatten_by_path, num_params

CONFIG = {"model_type": "gpt2", "n_embd": 1280, "n_head": 20, "vocab_size": 16000, "pad_token_id": 0}
SHARD = 2**28
"""Bytes from which on a shard is full."""


def write_checkpoint(folder: Path) -> None:
    """Write config.json, the shards, and their index."""
    format = FORMATS["gpt2"]
    config = check_config(str, format, CONFIG, None)
    name, input_shape, options = format.network(config)
    shapes = jax.eval_shape(build_model(name, input_shape, **options).init, jax.random.key(0))
    by_path = {path: leaf.shape for path, leaf in flatten_by_path(shapes).items()}
    shards: list[dict[str, StoredLeaf]] = [{}]
    for rule in format.rules(config):
        if sum(4 * leaf.size for leaf in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][rule.name] = StoredLeaf(folder, 0, np.dtype(np.float32), rule.shape(by_path))
    rng = np.random.default_rng(0)
    weight_map = {}
    for number, leaves in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        with write_safetensors(folder / file, leaves, {"format": "pt"}) as append:
            for leaf in stored_order(leaves):
                append(rng.standard_normal(leaves[leaf].shape, np.float32))
        weight_map |= dict.fromkeys(leaves, file)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def one_tensor(folder: Path) -> int:
    """Numbers of the tensor that is read."""
    leaves = open_safetensors(folder).leaves
    return leaves["transformer.h.0.mlp.c_fc.weight"].read().size


def all_tensors(folder: Path) -> int:
    """Numbers of the network that is read."""
    return num_params(af.load_pretrained(folder).params)


TASKS = {"imports": lambda folder: 0, "one tensor": one_tensor, "all": all_tensors, "write": write_checkpoint}


def run(task: str, folder: Path) -> None:
    """Do a task, and print what it took."""
    start = time.perf_counter()
    numbers = TASKS[task](folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"numbers": numbers, "seconds": seconds, "peak": peak}))


def measure(task: str, folder: str) -> dict[str, float]:
    """Run a task in a fresh process and return what it took."""
    command = [sys.executable, __file__, task, folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    table = Table("task", "MB read", "seconds", "peak MB")
    with tempfile.TemporaryDirectory() as folder:
        measure("write", folder)
        for task in ("imports", "one tensor", "all"):
            found = measure(task, folder)
            cells = (4 * found["numbers"] / 1e6, found["seconds"], found["peak"] / 1e3)
            table.add_row(task, f"{cells[0]:.0f}", f"{cells[1]:.2f}", f"{cells[2]:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
