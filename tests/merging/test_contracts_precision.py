"""One table of contracts on numbers: every registered method in every precision, at every scale."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import (
    BUILT,
    LEAF_BY_LEAF,
    METHODS,
    NEED_BASE,
    NOT_ITSELF,
    OTHER_PROGRAM,
)

HALF = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
NARROW = {**HALF, "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
EVERY = {**NARROW, "float32": np.float32, "complex64": np.complex64}

BY_LEAF = sorted(LEAF_BY_LEAF | {"interpolation"})
"""Methods that take networks leaf by leaf: no spec, no inputs."""

KEEP = [name for name in BY_LEAF if name not in NOT_ITSELF]
"""Those of them that keep a network merged with itself."""


def draw(seed, dtype=np.float32, scale=1.0):
    """A small network with leaves of every rank, none of them zero."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        values = rng.standard_normal(shape) * scale
        if np.issubdtype(dtype, np.complexfloating):
            values = values + 1j * rng.standard_normal(shape) * scale
        return np.asarray(values).astype(dtype)

    return {"kernel": leaf(6, 5), "conv": leaf(2, 2, 3, 4), "bias": leaf(7), "one": leaf(1), "scalar": leaf()}


def merged(name, models, base=None, **options):
    given = {"base": base} if name in NEED_BASE else {}
    return af.merge_many(models, None, None, method=name, **METHODS[name], **given, **options).params


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), tree)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("name", BY_LEAF)
def test_dtypes_are_kept_and_all_is_finite(name, dtype):
    base, *models = (draw(seed, EVERY[dtype]) for seed in range(4))
    params = merged(name, models, base)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, cast(models[0], EVERY[dtype]))
    for leaf in jax.tree.leaves(params):
        assert np.isfinite(np.asarray(leaf).astype(np.complex64)).all()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", BY_LEAF)
def test_is_the_merge_of_the_widened_networks_rounded_once(name, dtype):
    base, *models = (draw(seed, NARROW[dtype]) for seed in range(4))
    got = merged(name, models, base)
    wide = merged(name, [cast(params, np.float32) for params in models], cast(base, np.float32))
    for path, leaf in wide.items():
        once = np.asarray(leaf).astype(NARROW[dtype]).astype(np.float32)
        ulp = 2 * float(jnp.finfo(NARROW[dtype]).eps) * np.abs(once) + float(jnp.finfo(NARROW[dtype]).tiny)
        assert (np.abs(np.asarray(got[path]).astype(np.float32) - once) <= ulp / 2).all(), path


@pytest.mark.parametrize("num", [2, 3, 5, 7, 20, 64])
@pytest.mark.parametrize("name", KEEP)
def test_identical_networks_come_back_bit_for_bit(name, num):
    base = {}
    for dtype, kind in EVERY.items():
        base[dtype], params = draw(0, kind), draw(1, kind)
        got = merged(name, [params] * num, base[dtype])
        for path, leaf in params.items():
            assert np.asarray(got[path]).tobytes() == leaf.tobytes(), (dtype, path)


@pytest.mark.parametrize("name", BY_LEAF)
def test_64_bits_allowed_change_nothing_in_32(name):
    base, *models = (draw(seed) for seed in range(4))
    expected = merged(name, models, base)
    with jax.enable_x64(True):
        got = merged(name, models, base)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BY_LEAF)
def test_64_bits_are_used_where_they_are_given(name):
    base, *models = (draw(seed, np.float64) for seed in range(4))
    with jax.enable_x64(True):
        got = merged(name, models, base)
        narrow = merged(name, [cast(params, np.float32) for params in models], cast(base, np.float32))
        if name in KEEP:
            chex.assert_trees_all_equal(merged(name, [models[0]] * 3, base), cast(models[0], np.float64))
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(got))
    chex.assert_trees_all_close(cast(got, np.float32), narrow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BY_LEAF)
def test_leaves_of_other_kinds_are_the_first_networks(name):
    def network(seed):
        counts = {"count": np.array(2**40 + 5 + seed), "small": np.array([seed], np.uint8)}
        return {**draw(seed), **counts, "flag": np.array([True, seed > 1]), "empty": np.zeros((0, 3), np.float32)}

    base, *models = (network(seed) for seed in range(4))
    got = merged(name, models, base)
    for path in ("count", "small", "flag", "empty"):
        np.testing.assert_array_equal(got[path], models[0][path], err_msg=path)
        assert got[path].dtype == models[0][path].dtype, path


@pytest.mark.parametrize("power", [-60, 40])
@pytest.mark.parametrize("name", BY_LEAF)
def test_the_scale_of_networks_decides_nothing(name, power):
    base, *models = (draw(seed) for seed in range(4))
    scaled = [jax.tree.map(lambda leaf: np.ldexp(leaf, power), params) for params in (base, *models)]
    got, expected = merged(name, scaled[1:], scaled[0]), merged(name, models, base)
    for path, leaf in expected.items():
        back = np.ldexp(np.float64(got[path]), -power)
        np.testing.assert_allclose(back, leaf, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", BY_LEAF)
def test_the_largest_numbers_do_not_overflow(name):
    """Where the networks and what they differ in fit, and the result does."""
    base, *models = (
        jax.tree.map(lambda leaf: np.sign(leaf) * np.float32(3e38), draw(seed)) for seed in range(3)
    )
    same = merged(name, [models[0]] * 3, base) if name in KEEP else merged(name, [base] * 3, base)
    chex.assert_tree_all_finite(same)
    if name in ("average", "interpolation", "karcher", "multislerp", "slerp", "weighted_average"):
        chex.assert_tree_all_finite(merged(name, models, base))
