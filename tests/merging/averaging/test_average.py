import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.averaging.karcher import karcher_mean
from autofusion_jax.merging.averaging.model_stock import stock, stock_ratio
from autofusion_jax.merging.averaging.multislerp import mean_on_sphere
from autofusion_jax.merging.averaging.slerp import interpolate_on_sphere
from autofusion_jax.merging.averaging.weighted_average import weighted_sum
from autofusion_jax.merging.fuse import average as fused_average
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

WEIGHTED = {  # oracle -> weights, normalize
    "fb_weighted_average_norm": ([0.5, 1, 2.5], True),
    "fb_weighted_average_raw": ([0.2, 0.3, 0.4], False),
    "mk_linear": ([0.5, 1, 2.5], True),
    "mk_linear_raw": ([0.2, 0.3, 0.4], False),
}


def test_average_is_fusionbenchs():
    _, models = fusionbench_networks()
    result = af.merge_many(models, None, None, method="average")
    expect_oracle("fb_simple_average", result.params)
    assert result.weights == (1 / 3,) * 3


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_average_is_the_references(name):
    _, models = fusionbench_networks()
    weights, normalize = WEIGHTED[name]
    result = af.merge_many(
        models, None, None, method="weighted_average", weights=weights, normalize=normalize
    )
    expect_oracle(name, result.params)
    np.testing.assert_allclose(sum(result.weights), 1 if normalize else 0.9)


def test_many_weights_at_once():
    _, models = fusionbench_networks()
    weights = jax.random.uniform(jax.random.key(0), (4, 3))
    many = jax.vmap(weighted_sum, (None, 0))(models, weights)
    for i, each in enumerate(weights):
        one = weighted_sum(models, each.tolist())
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], many), one, atol=1e-6)


def test_leaves_that_are_no_floats_are_the_first_networks():
    models = [{"w": jnp.ones(2), "step": jnp.array(step)} for step in (3, 5)]
    for method in ("average", "weighted_average"):
        assert int(af.merge_many(models, None, None, method=method).params["step"]) == 3


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [0.5, -1.0], [1.0, float("nan")], []])
def test_weights_that_add_up_to_nothing(weights):
    wanted = r"weighted_average: weights must be a list of finite numbers with a sum above 0 or None; got \["
    with pytest.raises(ValueError, match=wanted):
        af.methods.weighted_average(weights=weights)


def test_as_many_weights_as_networks():
    _, models = fusionbench_networks()
    wanted = r"weighted_average: weights must be 3 numbers, one for each network; got \[1.0, 2.0\]"
    with pytest.raises(ValueError, match=wanted):
        af.merge_many(models, None, None, method="weighted_average", weights=[1.0, 2.0])


def test_derivatives_are_those_of_the_sum():
    """Also where the networks share an entry, which comes back as it is."""
    a, b = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([1.0, 5.0])}
    by_gamma = jax.jacfwd(lambda gamma: fused_average([a, b], [gamma, 1 - gamma])["w"])
    by_weight = jax.jacrev(lambda params: fused_average([params, b], [0.25, 0.75])["w"])
    np.testing.assert_allclose(by_gamma(0.5), [0.0, -3.0])
    np.testing.assert_allclose(by_weight(a)["w"], 0.25 * np.eye(2))


def test_parts_of_a_sum_do_not_overflow():
    largest = {"w": jnp.array([3e38], jnp.float32)}
    models = [largest, largest, jax.tree.map(jnp.negative, largest)]
    result = af.merge_many(models, None, method="weighted_average", weights=[2, 2, 3], normalize=False)
    np.testing.assert_allclose(result.params["w"], largest["w"], rtol=1e-6)


@pytest.mark.parametrize(
    "formula",
    [
        lambda models: weighted_sum(models, [0.2, 0.3, 0.5]),
        lambda models: interpolate_on_sphere(*models[:2], 0.5),
        lambda models: mean_on_sphere(models[0], models, [0.2, 0.3, 0.5]),
        lambda models: karcher_mean(models, 10, 1e-6),
        lambda models: stock(models[0], models[1:], stock_ratio(models[0], models[1:])),
    ],
)
def test_leaves_past_the_32_bits_of_an_index(formula):
    """A leaf of more than 2^31 entries is never counted, numbered or sorted by integers of 32 bits."""
    models = [{"w": jax.ShapeDtypeStruct((2**31 + 5,), np.float32)}] * 3
    program = str(jax.make_jaxpr(formula)(models))
    assert "2147483653" in program
    assert not any(f"{kind}[2147483653" in program for kind in ("i32", "u32", "i64"))
