"""slerp, multislerp and karcher: means on the sphere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.averaging.karcher import karcher_mean
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

SPHERICAL = ("karcher", "multislerp", "slerp")


def merged(models, method, **options):
    return af.merge_many(models, None, None, method=method, **options).params


def on_one_leaf(method, *vectors, **options):
    models = [{"w": jnp.asarray(vector, jnp.float32)} for vector in vectors]
    return np.asarray(merged(models, method, **options)["w"])


def test_slerp_is_mergekits():
    base, models = fusionbench_networks()
    expect_oracle("mk_slerp_t0.3", merged([base, models[0]], "slerp", gamma=0.7))


def test_multislerp_is_mergekits():
    base, models = fusionbench_networks()
    expect_oracle("mk_multislerp", merged(models, "multislerp", weights=[0.5, 1, 2.5]))
    expect_oracle("mk_multislerp_base", merged(models, "multislerp", weights=[0.5, 1, 2.5], base=base))


def test_karcher_is_mergekits():
    _, models = fusionbench_networks()
    expect_oracle("mk_karcher", merged(models, "karcher"))


@pytest.mark.parametrize("scale", [1 + 1e-4, -1, 0.5])
def test_slerp_of_parallel_networks_is_the_line(scale):
    a = np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(
        on_one_leaf("slerp", a, scale * a, gamma=0.25), (0.25 + 0.75 * scale) * a, atol=1e-6
    )


@pytest.mark.parametrize("method", SPHERICAL)
def test_the_mean_of_one_length_keeps_it(method):
    rows = np.random.default_rng(0).standard_normal((2, 50))
    a, b = 3 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    got = on_one_leaf(method, a, b)
    np.testing.assert_allclose(np.linalg.norm(got), 3, rtol=1e-5)
    np.testing.assert_allclose(got, 3 * (a + b) / np.linalg.norm(a + b), atol=1e-5)


@pytest.mark.parametrize("method", SPHERICAL)
def test_zeros_and_opposites_are_finite(method):
    zero, a = np.zeros(3), np.array([1.0, 2.0, -1.0])
    np.testing.assert_array_equal(on_one_leaf(method, zero, zero), zero)
    for other in (zero, -a):
        assert np.isfinite(on_one_leaf(method, a, other)).all()


def test_multislerp_of_opposites_is_the_line():
    a = np.array([1.0, 2.0, -1.0])
    np.testing.assert_allclose(on_one_leaf("multislerp", 3 * a, -a), a, atol=1e-6)


def test_karcher_is_where_the_arcs_balance():
    """Its logarithms add up to 0, which those of the mean direction do not; many iterations at once."""
    rows = np.random.default_rng(0).standard_normal((3, 4)) + np.array([[2.0], [0.0], [0.0]])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    models = [{"w": jnp.asarray(row, jnp.float32)} for row in rows]

    def imbalance(mean):
        mean = np.float64(mean) / np.linalg.norm(np.float64(mean))
        cosines = units @ mean
        angles = np.arccos(cosines)
        return np.linalg.norm((angles / np.sin(angles)) @ (units - cosines[:, None] * mean))

    means = jax.vmap(karcher_mean, (None, 0, None))(models, jnp.array([1, 50]), 1e-6)["w"]
    assert imbalance(means[1]) < 1e-5 < 1e-3 < imbalance(units.mean(0))
    assert imbalance(means[1]) < imbalance(means[0])
    np.testing.assert_allclose(np.linalg.norm(means[1]), np.linalg.norm(rows, axis=1).mean(), rtol=1e-5)


def test_karcher_leaves_out_what_has_no_direction():
    a = np.array([3.0, 4.0])
    np.testing.assert_allclose(on_one_leaf("karcher", np.zeros(2), a, a), 2 / 3 * a, rtol=1e-6)


@pytest.mark.parametrize("method", SPHERICAL)
def test_half_precision_is_merged_in_single(method):
    rows = np.random.default_rng(1).standard_normal((2, 4000)) * 10
    half = [jnp.asarray(row, jnp.bfloat16) for row in rows]
    got = merged([{"w": row} for row in half], method)["w"]
    assert got.dtype == jnp.bfloat16
    expected = on_one_leaf(method, *(row.astype(jnp.float32) for row in half))
    chex.assert_trees_all_close(got.astype(jnp.float32), expected, rtol=2**-8)


def test_a_weight_for_every_network():
    _, models = fusionbench_networks()
    with pytest.raises(ValueError, match=r"multislerp: weights must be 3 numbers, one for each network"):
        merged(models, "multislerp", weights=[1.0, 2.0])


@pytest.mark.parametrize("method", SPHERICAL)
@pytest.mark.parametrize(("left", "right"), [(1e-20, 1e-20), (1e19, 1e19), (3e38, 3e38), (3e30, 1e-30)])
def test_leaves_of_every_size(method, left, right):
    """Two at right angles: the mean of their directions, however long they are."""
    got = on_one_leaf(method, [left, 0.0], [0.0, right])
    assert np.isfinite(got).all() and (got[0] > 0)
    if left == right:
        np.testing.assert_allclose(got / np.float32(left), [0.5**0.5, 0.5**0.5], rtol=1e-5)


@pytest.mark.parametrize("method", ["karcher", "multislerp"])
def test_a_direction_counts_whatever_its_length(method):
    """Far apart in length: half of the longer one's, half-way between the two directions."""
    got = np.float64(on_one_leaf(method, [3e30, 0.0], [0.0, 1e-30]))
    np.testing.assert_allclose(got, 1.5e30 * np.array([0.5, 0.5]) ** 0.5, rtol=1e-5)


def test_karcher_of_near_directions_moves_by_less_than_a_cosine_tells():
    """Three directions 1e-4 apart, of which two are one: two thirds of the way, not the chord's."""
    angles = np.array([0.0, 1e-2, 1e-2])
    got = on_one_leaf("karcher", *np.stack([np.cos(angles), np.sin(angles)], 1))
    np.testing.assert_allclose(np.arctan2(got[1], got[0]), angles.mean(), rtol=1e-5)


def test_multislerp_of_opposites_is_relative_to_the_weights():
    """Weights of both signs: networks whose weighted directions cancel give the line."""
    a = np.array([1.0, 2.0, -1.0])
    np.testing.assert_allclose(on_one_leaf("multislerp", a, 3 * a, weights=[2.0, -1.0]), -a, rtol=1e-5)
    np.testing.assert_allclose(on_one_leaf("multislerp", 1e-20 * a, -1e-20 * a), 0 * a, atol=1e-26)
