import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.zipping.combine import zip_models
from autofusion_jax.merging.zipping.family_matching import join
from autofusion_jax.merging.zipping.similarities import Evidence, block_moments, block_similarities
from autofusion_jax.merging.zipping.zipit import match_measured
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.zipping.zipit_resnet import GROUP_OF_NODE, bn_resnet, gn_resnet, group_of, networks
from tests.symmetry.zoo import CASES

RECORDED = {"e2e_zipit_resnet_full_a0.5_b1": "zip", "e2e_zipit_resnet_permute": "permute"}
POOLED = 27
"""The node before pooling; our site of that group is behind it."""


@functools.cache
def load(name):
    stored = oracle(f"{name}.npz")
    models = networks(stored)
    spec = af.infer_perm_spec(bn_resnet, models[0], jnp.asarray(stored["X_eval"]), check=False)
    groups = {node: group_of(spec, f"{leaf}.weight") for node, leaf in GROUP_OF_NODE.items()}
    return stored, models, spec, groups


def test_measures_the_recorded_moments():
    stored, models, spec, groups = load("e2e_zipit_resnet_full_a0.5_b1")
    measured = block_moments(spec, models, jnp.asarray(stored["X"]), position="read")
    for node in groups.keys() - {POOLED}:
        moments, mean = measured[groups[node]], stored[f"node{node}/mean"]
        square = moments.unit**2
        np.testing.assert_allclose(
            square * moments.cov, stored[f"node{node}/covariance"], rtol=1e-5, atol=1e-5
        )
        between = square * (moments.second_moment() - moments.cov)
        np.testing.assert_allclose(between, np.outer(mean, mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RECORDED)
def test_replays_the_reference(name):
    """Matrices, weights and outputs; the recorded merge matrices are N times ours.

    The published code adds 1e-5 to the number of units in a cluster.
    """
    stored, models, spec, groups = load(name)
    x, x_eval = jnp.asarray(stored["X"]), jnp.asarray(stored["X_eval"])
    similarities = block_similarities(spec, models, x, kind="correlation", position="read")
    cov = stored[f"node{POOLED}/covariance"]
    std = np.sqrt(np.diagonal(cov))
    similarities[groups[POOLED]] = Evidence(jnp.asarray(cov / np.maximum(np.outer(std, std), 1e-7)))
    options = {"variant": RECORDED[name], "a": float(stored["a"]) or 0.5, "b": float(stored["b"])}
    found = join(match_measured(spec, models, similarities, **options).values())
    for node, group in groups.items():
        np.testing.assert_array_equal(found.unmerge[group], stored[f"node{node}/unmerge"])
        np.testing.assert_allclose(2 * found.merge[group], stored[f"node{node}/merge"], rtol=1.1e-5)
    params = zip_models(spec, models, found.merge, found.unmerge)
    for path, expected in networks(stored, ["merged"])[0].items():
        np.testing.assert_allclose(params[path], expected, rtol=2e-5, atol=1e-6)
    expected = stored["merged_out_noreset"]
    np.testing.assert_allclose(bn_resnet(params, x_eval), expected, rtol=1e-4, atol=1e-4)


ZOO = [
    "attention_bare",  # queries and keys have no site that reads them
    pytest.param("llama", marks=pytest.mark.slow),  # query groups are read with their value units beside them
    pytest.param("linear_attention", marks=pytest.mark.slow),  # a group of which nothing can be measured
    pytest.param("resnext", marks=pytest.mark.slow),  # units that never fire
    pytest.param("channel_shuffle", marks=pytest.mark.slow),  # a group nested in two
    pytest.param("nested_twice", marks=pytest.mark.slow),
    pytest.param("scan_over_layers", marks=pytest.mark.slow),
    pytest.param("t5_encoder", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", ZOO)
def test_a_permuted_copy_keeps_the_function(name):
    apply_fn, params, few = CASES[name].make()
    spec = af.infer_perm_spec(apply_fn, params, few, check=False)
    if jnp.issubdtype(few.dtype, jnp.integer):
        x = jax.random.randint(jax.random.key(3), (32, *few.shape[1:]), 0, int(few.max()) + 1)
    else:
        x = jax.random.normal(jax.random.key(3), (32, *few.shape[1:]))
    perms = af.random_perms(spec, jax.random.key(1))
    models = [params, af.apply_perm(spec, params, perms)]
    for variant in ("zip", "permute"):
        result = af.merge_many(models, spec, x, method="zipit", variant=variant)
        np.testing.assert_allclose(apply_fn(result.params, x), apply_fn(params, x), atol=2e-5)
    inverse = af.invert(spec, perms)
    for group in spec.groups:
        np.testing.assert_array_equal(result.perms[group], inverse[group])
        total = np.sum([alignment[group] for alignment in result.alignments], axis=0)
        np.testing.assert_allclose(total.sum(-1), 1, atol=1e-6)


@pytest.mark.slow
def test_three_networks_and_every_variant(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    x = inputs_for(mlp)
    result = af.merge_many(models, mlp.perm_spec, x, method="zipit", a=0.5, b=0.5)
    assert result.weights == (1.0, 1.0, 1.0)
    used = np.concatenate([alignment["dense_0"] for alignment in result.alignments], 1)
    assert (np.sort((used > 0).sum(0)) == 1).all()  # every unit went somewhere
    average = af.merge_many(models, mlp.perm_spec, x, method="zipit", variant="identity").params
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *models)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, expected)
    pairs = af.merge_many(models[:2], mlp.perm_spec, x, method="zipit", variant="optimal")
    assert ((np.asarray(pairs.alignments[0]["dense_1"]) != 0).sum(-1) <= 2).all()


def test_similarities_by_hand():
    """Units that never fire are alike, most of all one and its copy."""
    apply_fn = lambda p, x: jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]  # noqa: E731
    key = jax.random.key(0)
    params = {
        "up": jax.random.normal(key, (3, 4)),
        "bias": jnp.array([0, -99.0, 0, -99]),
        "down": jnp.ones((4, 2)),
    }
    x = jax.random.normal(jax.random.key(1), (50, 3))
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    (found,) = block_similarities(spec, [params, params], x, kind="correlation", position="read").values()
    got = found.beside(jnp.ones_like(found.known))  # their weights are alike
    hidden = np.tile(np.maximum(x @ params["up"], 0)[:, [0, 2]], 2)
    alive, dead = [0, 2, 4, 6], [1, 3, 5, 7]
    np.testing.assert_allclose(got[np.ix_(alive, alive)], np.corrcoef(hidden.T), atol=1e-5)
    assert (got[np.ix_(dead, dead)] > 0.99).all() and (got[np.ix_(dead, alive)] == 0).all()
    assert (got[[1, 3], [5, 7]] == 1).all()  # told from the other dead unit by what stands before the ReLU


def test_it_needs_inputs(mlp):
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, None, method="zipit")


@pytest.mark.slow
def test_a_cut_through_nested_groups_gives_back_each_networks_own_units():
    stored = oracle("e2e_mudsc_resnet_gn_N2.npz")
    params, x = networks(stored)[0], jnp.asarray(stored["X"])
    spec = af.infer_perm_spec(gn_resnet, params, x, check=False)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(2)))
    result = af.merge(params, copy, spec, x, method="zipit", stop_at="layer2.0.conv1.weight.read")
    for head in result.apply_fn(result.params, x):
        np.testing.assert_allclose(head, gn_resnet(params, x), atol=1e-5)
