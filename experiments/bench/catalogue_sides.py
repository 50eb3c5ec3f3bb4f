"""One side of `catalogue.py`, in a process of its own: prints seconds and peak memory as a line of JSON.

    PYTHON experiments/bench/catalogue_sides.py SIDE METHOD FOLDER

Each side imports only what it measures, so that PYTHON may be one that has nothing but the peers.
"""
# pyright: reportMissingImports=false

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SCALE, DENSITY = 0.3, 0.2
REPEATS, BUDGET = 5, 20.0
"""Repeats, and seconds after which there are no more of them."""
LAMBDAS = 64


def measure(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of the first call and of the fastest later one, CPU seconds of it, peak GiB."""
    before = peak()
    walls, cpus = [], []
    begin = time.perf_counter()
    while len(walls) < 2 or (len(walls) <= REPEATS and time.perf_counter() - begin < BUDGET):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "first": walls[0], "seconds": min(walls[1:]), "cpu": min(cpus[1:]), "before": before, "peak": peak(),
    }  # fmt: skip


def peak() -> float:
    """The largest resident memory of this process up to now, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make(method: str, folder: Path) -> dict[str, float]:
    """Write a base and networks of random weights; `method` is what `shapes` and how many."""
    from safetensors.numpy import save_file

    size, num = method.split(":")
    for number in range(int(num) + 1):
        rng = np.random.default_rng(number)
        leaves = {
            name: rng.standard_normal(shape, np.float32) * np.float32(0.02)
            for name, shape in SHAPES[size]().items()
        }
        name = "base" if number == 0 else f"tuned_{number}"
        save_file(leaves, folder / f"{name}.safetensors", metadata={"format": "pt"})
    return {"entries": sum(leaf.size for leaf in leaves.values())}


def resnet50() -> dict[str, tuple[int, ...]]:
    """Shapes of ResNet-50's parameters, 25.6 million."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    norm("bn1", 64)
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            sizes = ((width, before, 1), (width, width, 3), (4 * width, width, 1))
            for number, (out, into, kernel) in enumerate(sizes, 1):
                shapes[f"{at}.conv{number}.weight"] = (out, into, kernel, kernel)
                norm(f"{at}.bn{number}", out)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, before, 1, 1)
                norm(f"{at}.downsample.1", 4 * width)
            before = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def vit_b_32() -> dict[str, tuple[int, ...]]:
    """Shapes of ViT-B/32's parameters, 88.2 million."""
    width, hidden = 768, 3072
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, width), "positions": (1, 50, width), "patches.weight": (width, 3, 32, 32),
        "patches.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        "head.weight": (1000, width), "head.bias": (1000,),
    }  # fmt: skip
    for block in range(12):
        for name, shape in {
            "norm1": (width,), "qkv": (3 * width, width), "proj": (width, width),
            "norm2": (width,), "up": (hidden, width), "down": (width, hidden),
        }.items():  # fmt: skip
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
    return shapes


SHAPES = {"resnet50": resnet50, "vit_b_32": vit_b_32}


def files_in(folder: Path) -> tuple[Path, list[Path]]:
    """The base and the networks."""
    return folder / "base.safetensors", sorted(folder.glob("tuned_*.safetensors"))


def our_options(method: str) -> dict[str, Any]:
    """Options of our methods."""
    return {"average": {}, "task_arithmetic": {"scale": SCALE}, "ties": {"scale": SCALE, "density": DENSITY}}[
        method
    ]


def ours_memory(method: str, folder: Path) -> dict[str, float]:
    """`merge_many` of networks in memory."""
    import jax
    import jax.numpy as jnp

    import autofusion_jax as af
    from autofusion_jax.checkpoints.safetensors_io import open_safetensors

    path, paths = files_in(folder)
    base, *models = (
        {name: jnp.asarray(leaf.read()) for name, leaf in open_safetensors(file).leaves.items()}
        for file in (path, *paths)
    )
    options = our_options(method)
    return measure(
        lambda: jax.block_until_ready(
            af.merge_many(models, None, None, method=method, base=base, **options).params
        )
    )


def ours_files(method: str, folder: Path) -> dict[str, float]:
    """`merge_files`."""
    import autofusion_jax as af

    base, paths = files_in(folder)
    out, options = folder / "ours.out", our_options(method)
    return measure(lambda: af.merge_files(paths, out, base=base, method=method, **options))


def plain_memory(method: str, folder: Path) -> dict[str, float]:
    """Copying as many bytes as the networks (and the base) have and one more: half read, half written."""
    base, paths = files_in(folder)
    num = len(paths) + (method != "average") + 1
    values = np.ones(base.stat().st_size // 4 * num // 2, np.float32)
    out = np.zeros_like(values)
    return measure(lambda: np.copyto(out, values))


def plain_files(method: str, folder: Path) -> dict[str, float]:
    """Reading all files and writing one."""
    base, paths = files_in(folder)
    block = memoryview(bytearray(1 << 20))

    def run() -> None:
        with open(folder / "plain.out", "wb", buffering=0) as out:
            for path in (*paths, *([] if method == "average" else [base])):
                with open(path, "rb", buffering=0) as file:
                    while got := file.readinto(block):
                        if path == paths[0]:
                            out.write(block[:got])

    return measure(run)


def fusionbench(method: str, folder: Path) -> dict[str, float]:
    """FusionBench's algorithms on modules in memory."""
    import torch
    from fusion_bench.method.simple_average import SimpleAverageAlgorithm
    from fusion_bench.method.task_arithmetic import TaskArithmeticAlgorithm
    from fusion_bench.method.ties_merging import TiesMergingAlgorithm
    from fusion_bench.modelpool import BaseModelPool
    from safetensors.torch import load_file

    class Network(torch.nn.Module):
        def __init__(self, path: Path) -> None:
            super().__init__()
            for name, leaf in load_file(path).items():
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(leaf.clone()))

    base, paths = files_in(folder)
    models = {path.stem: Network(path) for path in paths} | {"_pretrained_": Network(base)}
    pool = BaseModelPool(models)
    algorithm = {
        "average": lambda: SimpleAverageAlgorithm(inplace=False),
        "task_arithmetic": lambda: TaskArithmeticAlgorithm(SCALE),
        "ties": lambda: TiesMergingAlgorithm(SCALE, 100 * DENSITY, [], "sum"),
    }[method]()
    return measure(lambda: algorithm.run(pool))


def mergekit(method: str, folder: Path) -> dict[str, float]:
    """`mergekit-pytorch`, which takes files of any architecture."""
    import yaml
    from mergekit.scripts.merge_raw_pytorch import SimpleLoaderCache, main

    base, paths = files_in(folder)
    config: dict[str, Any] = {
        "merge_method": {"average": "linear"}.get(method, method),
        "models": [{"model": str(path)} for path in paths],
        "parameters": {
            "average": {"weight": 1.0}, "task_arithmetic": {"weight": SCALE},
            "ties": {"weight": SCALE, "density": DENSITY},
        }[method],
    }  # fmt: skip
    if method != "average":
        config["base_model"] = str(base)
    file = folder / f"{method}.yaml"
    file.write_text(yaml.safe_dump(config))

    def run() -> None:
        SimpleLoaderCache().loaders.clear()
        main([str(file), str(folder / "mergekit.out")], standalone_mode=False)

    return measure(run)


def sweep(method: str, folder: Path) -> dict[str, float]:
    """64 values of lambda on a small network: one vmapped call, 64 calls of one, or 64 of `merge_many`."""
    import jax
    import jax.numpy as jnp

    import autofusion_jax as af
    from autofusion_jax.merging.task_vectors.task_arithmetic import add_task_vectors

    widths = (64, 128, 128, 10)

    def network(key: Any) -> list[Any]:
        shapes = zip(jax.random.split(key, len(widths)), widths, widths[1:])
        return [0.05 * jax.random.normal(k, shape) for k, *shape in shapes]

    base, *models = map(network, jax.random.split(jax.random.key(0), 9))
    x = jax.random.normal(jax.random.key(1), (256, widths[0]))
    labels = jnp.arange(256) % widths[-1]

    @jax.jit
    def accuracy(params: Any) -> Any:
        h = x
        for kernel in params[:-1]:
            h = jax.nn.relu(h @ kernel)
        return ((h @ params[-1]).argmax(-1) == labels).mean()

    def merged(scale: float) -> Any:
        return af.merge_many(models, None, None, base=base, method="task_arithmetic", scale=scale).params

    one = jax.jit(lambda scale: accuracy(add_task_vectors(base, models, scale)))
    together = jax.jit(jax.vmap(one))
    scales = np.linspace(0.01, 1, LAMBDAS, dtype=np.float32)
    ways = {
        "vmap": lambda: np.asarray(together(scales)),
        "loop": lambda: [float(one(scale)) for scale in scales],
        "merge_many": lambda: [float(accuracy(merged(float(scale)))) for scale in scales],
    }
    return measure(ways[method])


SIDES = {
    side.__name__: side
    for side in (make, ours_memory, ours_files, plain_memory, plain_files, fusionbench, mergekit, sweep)
}

if __name__ == "__main__":
    found = SIDES[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    sys.stdout.flush()
    os.write(1, ("\n" + json.dumps(found) + "\n").encode())
