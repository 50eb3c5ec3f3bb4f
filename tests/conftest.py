"""Fixtures shared by all tests."""

import collections
import functools
import os
import tempfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import Model, build_model

os.environ.setdefault("AUTOFUSION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "autofusion_jax_tests"))
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", f"{os.environ['AUTOFUSION_CACHE_DIR']}/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update(
    "jax_disable_most_optimizations", True
)  # programs run for milliseconds and compile for seconds

ORACLES = Path(__file__).parent / "oracles"

MODELS = {
    "mlp": build_model("mlp", (4, 4), widths=(12, 10), num_classes=3),
    "vgg": build_model("vgg", (8, 8, 2), widths=(4, 6), pool_after=(0,), num_classes=3),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="only the Kth of N parts of the tests, K from 1 to N")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one part: of every file a run of neighbours, which share networks and compiled programs."""
    if not config.getoption("--part"):
        return
    wanted, num_parts = map(int, config.getoption("--part").split("/"))
    files = collections.defaultdict(list)
    for item in items:
        files[item.nodeid.partition("::")[0]].append(item)
    kept = []
    for name, tests in files.items():
        first = zlib.crc32(name.encode()) % 1000 / 1000  # so that files of few tests meet in no one part
        part = [int((number / len(tests) + first) * num_parts) % num_parts for number in range(len(tests))]
        kept += [item for item, number in zip(tests, part) if number == wanted - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


MAPS = Path("/proc/self/maps")
MANY_MAPS = 30_000
"""Each program holds memory maps of which a process has 65,530: past them, loading one more crashes."""


@pytest.fixture(scope="module", autouse=True)
def _few_compiled_programs():
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _few_memory_maps():
    """For a file of many tests, or many programs in one."""
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(params=["mlp", pytest.param("vgg", marks=pytest.mark.slow)])
def model(request) -> Model:
    return MODELS[request.param]


@pytest.fixture
def mlp() -> Model:
    return MODELS["mlp"]


@pytest.fixture
def vgg() -> Model:
    return MODELS["vgg"]


def inputs_for(model: Model, num: int = 24, seed: int = 5) -> jax.Array:
    """Random inputs: numbers, or tokens 0 to 10."""

    def draw(x: jax.ShapeDtypeStruct) -> jax.Array:
        key = jax.random.key(seed)
        tokens = jnp.issubdtype(x.dtype, jnp.integer)
        return jax.random.randint(key, x.shape, 0, 11) if tokens else jax.random.normal(key, x.shape)

    return jax.tree.map(draw, model.inputs(num))


def params_for(model: Model, seed: int) -> dict:
    """Random parameters with no zero biases, so that nothing is symmetric by accident."""
    return jax.tree.map(lambda leaf: leaf, _params_for(model, seed))  # a tree that a test may change


@functools.cache
def _params_for(model: Model, seed: int) -> dict:
    return _draw_params(model, jax.random.key(seed), jax.random.key(seed + 1000))


@functools.partial(jax.jit, static_argnums=0)  # one program, not one for each shape
def _draw_params(model: Model, key: jax.Array, noise_key: jax.Array) -> dict:
    leaves, tree = jax.tree.flatten(model.init(key))
    keys = jax.random.split(noise_key, len(leaves))
    return tree.unflatten([v + 0.1 * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves)])


def fine_tuned(model: Model, num: int = 2, seed: int = 0) -> tuple[dict, tuple[dict, ...]]:
    """A base, and networks near to it."""
    base = params_for(model, seed)
    others = [params_for(model, seed + 1 + number) for number in range(num)]
    return base, tuple(_add(base, other) for other in others)


@jax.jit
def _add(base: dict, other: dict) -> dict:
    return jax.tree.map(lambda p, d: p + 0.3 * d, base, other)


def oracle(name: str) -> dict[str, np.ndarray]:
    with np.load(ORACLES / name, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def oracle_network(stored: dict[str, np.ndarray], prefix: str) -> dict[str, jax.Array]:
    """One network of an oracle file: a flat dict of leaves."""
    return {
        key.removeprefix(f"{prefix}:"): jnp.asarray(value)
        for key, value in stored.items()
        if key.startswith(f"{prefix}:")
    }


def spec_from_oracle(axes: dict[str, list], params: dict) -> af.PermSpec:
    """Turn git-re-basin's table (leaf -> axis names) into a spec."""
    table = {
        path: [
            None if name is None else (af.out_axis(name) if number == len(names) - 1 else af.in_axis(name))
            for number, name in enumerate(names)
        ]
        for path, names in axes.items()
    }
    return af.PermSpec.from_table(table, params)
