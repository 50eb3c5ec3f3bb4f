import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.averaging.model_stock import stock_ratio
from tests.merging.fusionbench import expect_oracle, fusionbench_networks


def merged(base, vectors):
    models = [{"w": jnp.asarray(vector, jnp.float32)} for vector in vectors]
    return af.merge_many(models, None, None, base={"w": jnp.asarray(base, jnp.float32)}, method="model_stock")


def test_is_mergekits():
    base, models = fusionbench_networks()
    result = af.merge_many(models, None, None, base=base, method="model_stock")
    expect_oracle("mk_model_stock", result.params)
    assert min(jax.tree.leaves(result.diagnostics["ratio"])) < 0  # angles above 90 degrees are in it


@pytest.mark.parametrize("num", [2, 3])
def test_is_the_foot_of_the_perpendicular_from_the_centre(num):
    """Networks at one angle and one distance of the base: centre plus equal noise at right angles."""
    basis = np.eye(6)
    centre, noise = 2.0, 1.5
    deltas = centre * basis[0] + noise * basis[1 : num + 1]
    base = np.arange(6.0)
    average = deltas.mean(0)
    foot = average * (average @ (centre * basis[0])) / (average @ average)
    np.testing.assert_allclose(merged(base, base + deltas).params["w"], base + foot, rtol=1e-5)


def test_right_angles_give_the_base_and_equal_changes_the_average():
    base = np.array([1.0, 2.0])
    orthogonal = merged(base, base + np.eye(2))
    np.testing.assert_allclose(orthogonal.params["w"], base, atol=1e-6)
    alike = merged(base, base + np.array([[1, 1], [3, 3]]))
    np.testing.assert_allclose(alike.params["w"], base + 2, atol=1e-5)


def test_opposite_changes_and_none_give_the_base():
    base = np.array([2.0])
    for others in ([3.0], [1.5]), ([2.0], [2.0]):
        result = merged(base, others)
        np.testing.assert_allclose(result.diagnostics["ratio"]["w"], 0)
        np.testing.assert_allclose(result.params["w"], base)


def test_many_networks_at_once():
    base, models = fusionbench_networks()
    many = [jax.tree.map(lambda a, b: jnp.stack([a, b]), *pair) for pair in itertools.pairwise(models)]
    ratios = jax.vmap(stock_ratio, (None, 0))(base, many)
    for i in range(2):
        one = stock_ratio(base, models[i : i + 2])
        for path, ratio in one.items():
            np.testing.assert_allclose(ratios[path][i], ratio, atol=1e-6)


def test_needs_the_base():
    _, models = fusionbench_networks()
    with pytest.raises(ValueError, match=r"base must be the parameters that all networks were fine-tuned"):
        af.merge_many(models, None, None, method="model_stock")


@pytest.mark.parametrize("size", [1e-5, 1e-12, 1e-25])
def test_equal_changes_give_the_average_however_small(size):
    change = np.full(768, size)
    alike = merged(np.zeros(768), [change] * 3)
    assert float(alike.diagnostics["ratio"]["w"]) == 1
    np.testing.assert_array_equal(alike.params["w"], np.float32(change))
    crossed = merged(np.zeros(2), size * np.eye(2) * [[1], [3]])
    np.testing.assert_array_equal(crossed.diagnostics["ratio"]["w"], 0)


def test_many_networks_are_one_small_program():
    """One product of all with all, not a program that grows with the number of pairs."""
    base, models = {"w": jnp.zeros(3)}, [{"w": jnp.ones(3)}] * 40
    assert len(str(jax.make_jaxpr(stock_ratio)(base, models)).splitlines()) < 40 * 40
