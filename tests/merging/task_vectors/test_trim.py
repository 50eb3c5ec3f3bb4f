"""Thresholds are what a full sort gives, whatever the values."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.streaming import global_thresholds
from autofusion_jax.merging.task_vectors.trim import (
    leaf_thresholds,
    magnitudes,
    network_thresholds,
    nth_largest,
)

BITS = st.sampled_from([0, 1, 2, 0x3F800000]) | st.integers(0, 0x7F7FFFFF)
"""All finite float32 values from zero on as bit patterns: many zeros, subnormals and values alike."""


def task_of(base, models):
    return MergeTask(tuple(models), base=base)


@settings(deadline=None)
@given(hnp.arrays(np.uint32, st.integers(1, 60), elements=BITS))
@example(np.array([0], np.uint32))
@example(np.array([1], np.uint32))
@example(np.array([0, 0, 0, 7, 7], np.uint32))
def test_nth_largest_is_what_a_sort_gives(bits):
    values = bits.view(np.float32)
    found = [nth_largest(values.copy(), rank) for rank in range(1, len(values) + 1)]
    np.testing.assert_array_equal(found, np.sort(values)[::-1])


@settings(deadline=None)
@given(hnp.arrays(np.uint32, st.integers(1, 60), elements=BITS), st.integers(1, 61))
@example(np.array([0, 0, 0, 7, 7], np.uint32), 3)
@example(np.array([0x3F800001, 0x3F800000], np.uint32), 2)
def test_global_thresholds_are_what_a_sort_gives(bits, rank):
    values = bits.view(np.float32)
    base, models = {"w": jnp.zeros(len(values))}, [{"w": values}, {"w": -values[::-1]}]
    found = global_thresholds(lambda: [task_of(base, models)], lambda num: rank)
    expected = [np.sort(values)[::-1][min(rank, len(values)) - 1]] * 2
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(network_thresholds(base, models, lambda num: rank)["w"], expected)


def test_global_thresholds_with_64_bits():
    rng = np.random.default_rng(2)
    base, params = rng.standard_normal((2, 1000))
    with jax.enable_x64(True):
        task = task_of({"w": jnp.asarray(base)}, [{"w": jnp.asarray(params)}])
        found = global_thresholds(lambda: [task], lambda num: num // 5)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.sort(np.abs(params - base))[-200])


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.79, 0.8, 0.81, 1.0])
def test_many_zeros(zeros):
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal(10_000, np.float32)) * (rng.random(10_000) >= zeros)
    for rank in (1, 1999, 2000, 2001, 10_000):
        assert nth_largest(values.copy(), rank) == np.sort(values)[-rank]


def test_past_the_end_is_the_smallest():
    assert nth_largest(np.array([3.0, 1.0], np.float32), 7) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_global_and_by_leaf(dtype):
    rng = np.random.default_rng(1)

    def network():
        return {
            "a": jnp.asarray(rng.standard_normal((7, 5)), dtype),
            "b": jnp.asarray(rng.standard_normal(11), dtype),
            "step": jnp.array(3),
        }

    base, models = network(), [network(), network()]
    deltas = [
        {leaf: np.abs(np.float32(params[leaf]) - np.float32(base[leaf])).ravel() for leaf in "ab"}
        for params in models
    ]
    whole = [np.sort(np.concatenate([delta["a"], delta["b"]])) for delta in deltas]
    found = global_thresholds(lambda: [task_of(base, models)], lambda num: num // 5)
    np.testing.assert_array_equal(found, [delta[-9] for delta in whole])  # 46 // 5
    parts = [task_of({leaf: base[leaf]}, [{leaf: params[leaf]} for params in models]) for leaf in base]
    np.testing.assert_array_equal(global_thresholds(lambda: parts, lambda num: num // 5), found)
    under_jit = jax.jit(lambda base, models: network_thresholds(base, models, lambda num: num // 5))
    for whole_networks in (network_thresholds(base, models, lambda num: num // 5), under_jit(base, models)):
        np.testing.assert_array_equal(whole_networks["a"], found)
    found = leaf_thresholds(base, models, lambda num: num // 5)
    np.testing.assert_array_equal(found["a"], [np.sort(delta["a"])[-7] for delta in deltas])
    np.testing.assert_array_equal(found["b"], [np.sort(delta["b"])[-2] for delta in deltas])


def test_magnitudes_leave_the_networks_alone():
    base, params = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.0, 5.0])}
    nth_largest(magnitudes(base, params), 1)
    np.testing.assert_array_equal(params["w"], [0, 5])
