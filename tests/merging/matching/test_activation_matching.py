import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import autofusion_jax as af
from tests.conftest import inputs_for, oracle, oracle_network, params_for
from tests.symmetry.zoo import CASES

KINDS = ("correlation", "covariance", "second_moment")


def mlp_20_32_32_10(params, x):
    for layer in ("Dense_0", "Dense_1"):
        x = jax.nn.relu(x @ params[f"{layer}/kernel"] + params[f"{layer}/bias"])
    return x @ params["Dense_2/kernel"] + params["Dense_2/bias"]


def activations(params, x, position):
    """The hidden activations of `mlp_20_32_32_10`, in float64."""
    values = []
    for layer in ("Dense_0", "Dense_1"):
        pre = x @ np.float64(params[f"{layer}/kernel"]) + np.float64(params[f"{layer}/bias"])
        x = np.maximum(pre, 0)
        values.append(x if position == "read" else pre)
    return values


def similarity(kind, a, b):
    """The textbook formula, in float64."""
    if kind == "second_moment":
        return a.T @ b / len(a)
    table = np.corrcoef(a.T, b.T) if kind == "correlation" else np.cov(a.T, b.T, bias=True)
    return table[: a.shape[1], a.shape[1] :]


@pytest.mark.parametrize("position", ["read", "pre"])
@pytest.mark.parametrize("kind", KINDS)
def test_assignments_are_those_of_float64(kind, position):
    """git-re-basin's independent MLPs on 1200 inputs (three batches), by numpy and scipy."""
    stored = oracle("mlp_20_32_32_10_indep.npz")
    a, b = oracle_network(stored, "a"), oracle_network(stored, "b")
    x = np.random.default_rng(2).standard_normal((1200, 20)).astype(np.float32)
    spec = af.infer_perm_spec(mlp_20_32_32_10, a, jnp.asarray(x[:2]))
    options = {"kind": kind, "position": position, "gamma": 0.3}
    result = af.merge(a, b, spec, x, method="activation_matching", **options)
    for group, first, second in zip(
        spec.groups, *(activations(params, x.astype(np.float64), position) for params in (a, b))
    ):
        expected = linear_sum_assignment(similarity(kind, first, second), maximize=True)[1]
        np.testing.assert_array_equal(result.perms[group], expected)
    permuted = af.apply_perm(spec, b, result.perms)
    for path, leaf in result.params.items():
        np.testing.assert_allclose(leaf, 0.3 * a[path] + 0.7 * permuted[path], rtol=1e-5, atol=1e-6)
    assert result.weights == (0.3, 0.7)


def test_kinds_disagree_on_independent_networks():
    stored = oracle("mlp_20_32_32_10_indep.npz")
    a, b = oracle_network(stored, "a"), oracle_network(stored, "b")
    x = np.random.default_rng(2).standard_normal((1200, 20)).astype(np.float32)
    spec = af.infer_perm_spec(mlp_20_32_32_10, a, jnp.asarray(x[:2]))
    by_kind = [af.merge(a, b, spec, x, method="activation_matching", kind=kind).perms for kind in KINDS]
    share = np.mean([np.mean(by_kind[0][name] == by_kind[2][name]) for name in spec.groups])
    assert share < 0.6


@pytest.mark.slow
def test_planted_heads_are_found():
    apply_fn, params, x = CASES["attention_bare"].make()
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    x = jax.random.normal(jax.random.key(7), (64, *x.shape[1:]))
    planted = af.random_perms(spec, jax.random.key(0))
    copy = af.apply_perm(spec, params, planted)
    result = af.merge(params, copy, spec, x, method="activation_matching", position="pre")
    for group, perm in af.invert(spec, planted).items():
        np.testing.assert_array_equal(result.perms[group], perm)


def test_it_needs_inputs_and_no_key(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(a, b, mlp.perm_spec, None, method="activation_matching")
    assert not af.methods.activation_matching().uses_key
    assert af.merge(a, b, mlp.perm_spec, inputs_for(mlp), method="activation_matching").perms
