"""Recombination against FusionBench, whose loss of leaves is replayed; what is kept, what stays together."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.mixtures.recombination import recombine
from autofusion_jax.trees import flatten_by_path
from tests.conftest import oracle, params_for
from tests.merging.fusionbench import fusionbench_networks


def reference_sources(paths, num, seed):
    """Where the leaves of the reference come from.

    It shuffles each leaf by Python's `random`, then writes the new networks one after another over the
    old ones, which it still reads: a leaf that was overwritten before it was read is lost.
    """
    generator = random.Random(seed)
    columns = {}
    for path in paths:
        order = list(range(num))
        generator.shuffle(order)
        column = list(range(num))
        for number in range(num):
            column[number] = column[order[number]]
        columns[path] = column
    return np.array([columns[path] for path in sorted(paths)]).T


def test_the_reference_can_be_replayed():
    _, models = fusionbench_networks()
    stored = oracle("fusionbench/fb_recombination_seed5.npz")
    paths = [key.removeprefix("model0/") for key in stored if key.startswith("model0/")]
    for number, sources in enumerate(reference_sources(paths, 3, 5)):
        params = recombine(models, jnp.asarray(sources))
        for path in paths:
            np.testing.assert_array_equal(params[path], stored[f"model{number}/{path}"])


@pytest.mark.parametrize("level", ["module", "leaf"])
def test_every_leaf_of_every_network_is_in_one_new_network(mlp, level):
    models = [params_for(mlp, seed) for seed in range(3)]
    result = af.merge_many(
        models, mlp.perm_spec, None, method="recombination", level=level, key=jax.random.key(1)
    )
    assert list(result.variants) == ["network_0", "network_1", "network_2"]
    assert result.params is result.variants["network_0"]
    sources = result.diagnostics["sources"]
    np.testing.assert_array_equal(np.sort(sources, 0), np.arange(3)[:, None] * np.ones((1, sources.shape[1])))
    assert any(len(set(map(int, row))) > 1 for row in sources), "nothing is mixed"
    old = [list(flatten_by_path(params).values()) for params in models]
    for row, params in zip(sources, result.variants.values()):
        for number, leaf in enumerate(flatten_by_path(params).values()):
            np.testing.assert_array_equal(leaf, old[row[number]][number])


def test_a_module_stays_together(mlp):
    models = [params_for(mlp, seed) for seed in range(2)]
    keys = jax.random.split(jax.random.key(0), 8)
    paths = list(flatten_by_path(models[0]))
    pairs = [
        (paths.index(path), paths.index(path.replace("kernel", "bias")))
        for path in paths
        if path.endswith("kernel")
    ]
    assert pairs
    together = {}
    for level in ("module", "leaf"):
        results = af.merge_repeats(
            models, mlp.perm_spec, None, method="recombination", level=level, keys=keys
        )
        sources = [result.diagnostics["sources"] for result in results]
        together[level] = all((s[:, kernel] == s[:, bias]).all() for s in sources for kernel, bias in pairs)
    assert together == {"module": True, "leaf": False}


def test_one_vmap_makes_all_networks(mlp):
    models = [params_for(mlp, seed) for seed in range(2)]
    num = len(jax.tree.leaves(models[0]))
    many = jax.vmap(lambda sources: recombine(models, sources))(jnp.tile(jnp.arange(2)[:, None], (1, num)))
    for number, params in enumerate(models):
        for got, expected in zip(jax.tree.leaves(many), jax.tree.leaves(params)):
            np.testing.assert_array_equal(got[number], expected)
