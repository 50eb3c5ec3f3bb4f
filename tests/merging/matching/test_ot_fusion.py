import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import autofusion_jax as af
from autofusion_jax.merging.matching.ot_fusion import activation_distances, unit_costs
from tests.conftest import inputs_for, params_for
from tests.symmetry.test_transform import CASES
from tests.symmetry.zoo import CASES as ZOO


def reference(a, b, reg):
    """Singh and Jaggi's Algorithm 1 for a bias-free MLP in torch's layout `[out, in]`, in float64."""
    aligned, before = [], np.eye(a[0].shape[1])
    for number, (first, second) in enumerate(zip(a, b)):
        incoming = second @ before  # aligned with the layer before
        n = len(first)
        if number == len(a) - 1:
            aligned.append(incoming)
            break
        cost = ((first[:, None] - incoming[None]) ** 2).sum(-1).T  # rows B's units, columns A's
        transport = coupling(cost, reg)
        before = transport * n  # T diag(1 / mass of A's units)
        aligned.append(before.T @ incoming)
    return aligned


def coupling(cost, reg):
    n = len(cost)
    if reg is None:
        transport = np.zeros((n, n))
        transport[linear_sum_assignment(cost)] = 1 / n
        return transport
    kernel = np.exp(-cost / (reg * cost.mean()))
    right = np.ones(n)
    for _ in range(5000):
        left = (1 / n) / (kernel @ right)
        right = (1 / n) / (kernel.T @ left)
    return left[:, None] * kernel * right


@pytest.mark.parametrize("reg", [None, 0.1])
@pytest.mark.slow
def test_follows_the_paper(reg):
    rng = np.random.default_rng(0)
    shapes = [(6, 4), (7, 6), (3, 7)]
    a, b = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    names = ["first", "second", "third"]
    table = {
        "first": (af.out_axis("h0"), None),
        "second": (af.out_axis("h1"), af.in_axis("h0")),
        "third": (None, af.in_axis("h1")),
    }
    params_a, params_b = (
        {n: jnp.asarray(w, jnp.float32) for n, w in zip(names, network)} for network in (a, b)
    )
    spec = af.PermSpec.from_table(table, params_a)
    result = af.merge(params_a, params_b, spec, None, method="ot_fusion", reg=reg, gamma=0.3)
    for name, first, aligned in zip(names, a, reference(a, b, reg)):
        np.testing.assert_allclose(result.params[name], 0.3 * first + 0.7 * aligned, atol=1e-4)
    assert bool(result.perms) == (reg is None) and bool(result.soft_perms) == (reg is not None)


@pytest.mark.parametrize("ground", ["weights", "activations"])
@pytest.mark.parametrize("name", ["attention", "nested_twice"])
@pytest.mark.slow
def test_copies_are_found_in_nested_groups(name, ground):
    spec, params, x = nested(name)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(7)))
    result = af.merge(params, copy, spec, x, method="ot_fusion", ground=ground)
    chex.assert_trees_all_close(result.params, params, atol=1e-6)


def nested(name):
    if name == "attention":
        hand, params, x = CASES["attention"]
        return af.infer_perm_spec(hand.apply_fn, params, x, check=False), params, x
    apply_fn, params, x = ZOO[name].make()
    return af.infer_perm_spec(apply_fn, params, x, check=False), params, x


def test_a_stream_is_matched_by_what_is_known_when_it_is_made():
    """`up` is written by the input, and later by a group that is aligned only after it."""

    def apply_fn(params, x):
        h = x @ params["in"]
        h = h + jnp.tanh(h @ params["up"]) @ params["down"]
        return h @ params["out"]

    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"in": (9, 6), "up": (6, 8), "down": (8, 6), "out": (6, 2)}
    params = {n: jax.random.normal(k, shape) for k, (n, shape) in zip(keys, shapes.items())}
    x = jax.random.normal(keys[0], (5, 9))
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(1)))
    result = af.merge(params, copy, spec, x, method="ot_fusion")
    chex.assert_trees_all_close(result.params, params, atol=1e-6)


def test_distances_of_activations_by_hand(mlp):
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 40)
    distances = activation_distances(mlp.perm_spec, (a, b), x, ["dense_0"], "read")
    hidden = [
        x.reshape(40, -1) @ p["params"]["dense_0"]["kernel"] + p["params"]["dense_0"]["bias"] for p in (a, b)
    ]
    first, second = (jax.nn.relu(h) for h in hidden)
    expected = np.mean((np.asarray(first)[:, :, None] - np.asarray(second)[:, None]) ** 2, 0)
    costs = np.asarray(unit_costs(mlp.perm_spec, "dense_0", distances))
    np.testing.assert_allclose(costs / costs.mean(), expected / expected.mean(), rtol=1e-3, atol=1e-4)


def test_three_networks_are_aligned_to_the_first(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    result = af.merge_many(models, mlp.perm_spec, None, method="ot_fusion", gamma=0.5)
    assert result.weights == (0.5, 0.25, 0.25)
    for number in (1, 2):
        alone = af.merge(models[0], models[number], mlp.perm_spec, None, method="ot_fusion")
        chex.assert_trees_all_equal(alone.perms, result.alignments[number])


def test_entropy_gives_maps_whose_rows_sum_to_one(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    result = af.merge(a, b, mlp.perm_spec, None, method="ot_fusion", reg=0.05)
    for matrix in result.soft_perms.values():
        np.testing.assert_allclose(np.asarray(matrix).sum(-1), 1, atol=1e-5)
        assert 0.05 < np.asarray(matrix).max() < 0.99
    chex.assert_trees_all_close(
        result.params, af.fuse(a, b, result.soft_perms, 0.5, mlp.perm_spec), atol=1e-6
    )


def test_a_spec_without_sites():
    hand, params, x = CASES["attention"]
    with pytest.raises(
        ValueError, match="a spec with sites for all groups; got none for heads|none for units"
    ):
        af.merge(params, params, hand, x, method="ot_fusion", ground="activations")
