"""One table of contracts on numbers: every registered method in every precision, at every scale."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.streaming import can_stream
from autofusion_jax.models.registry import build_model
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import (
    ASSUME_ALIGNED,
    BUILT,
    LEAF_BY_LEAF,
    METHODS,
    NEED_BASE,
    NOT_ITSELF,
    OTHER_PROGRAM,
    slow_but,
)

HALF = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
NARROW = {**HALF, "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
FLOATS = {**NARROW, "float32": np.float32, "complex64": np.complex64}

BY_LEAF = sorted(LEAF_BY_LEAF | {"interpolation"})
"""Methods that take networks leaf by leaf: no spec, no inputs."""

FAST = {"average", "karcher", "sce", "ties"}
"""Those of them that the fast tests take; the slow ones take all."""

KEEP = [name for name in BY_LEAF if name not in NOT_ITSELF]
"""Those of them that keep a network merged with itself."""


def floats(seed, dtype=np.float32):
    """A small network: a matrix, a number and a leaf of one entry."""
    rng = np.random.default_rng(seed)
    shapes = {"matrix": (6, 5), "scalar": (), "one": (1,)}
    return {path: rng.standard_normal(shape).astype(dtype) for path, shape in shapes.items()}


def mixed(seed):
    """A small network with leaves of every kind."""
    rng = np.random.default_rng(seed)
    leaves = {
        name: (rng.standard_normal((6, 5)) + 1j * rng.standard_normal((6, 5))).astype(dtype)
        if name == "complex64"
        else rng.standard_normal((6, 5)).astype(dtype)
        for name, dtype in FLOATS.items()
    }
    kept = {
        "count": np.array(2**40 + 5 + seed),
        "byte": np.array([seed], np.uint8),
        "flag": np.array([True, seed > 1]),
        "empty": np.zeros((0, 3), np.float32),
    }
    return floats(seed) | leaves | kept


def merged(name, models, base):
    given = {"base": base} if name in NEED_BASE else {}
    params = af.merge_many(models, None, None, method=name, **METHODS[name], **given).params
    return jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_leaves_of_every_kind(name):
    """Dtypes are kept; what is no float is the first network's; narrow floats are rounded once."""
    base, *models = (mixed(seed) for seed in range(4))
    got = merged(name, models, base)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, models[0])
    assert all(np.isfinite(leaf.astype(np.complex64)).all() for leaf in got.values())
    for path in ("count", "byte", "flag", "empty"):
        np.testing.assert_array_equal(got[path], models[0][path], err_msg=path)
    wide_base, *wide_models = (
        {path: leaf.astype(np.float32) if path in NARROW else leaf for path, leaf in params.items()}
        for params in (base, *models)
    )
    wide = merged(name, wide_models, wide_base)
    for path, dtype in NARROW.items():
        once = wide[path].astype(dtype).astype(np.float32)
        ulp = float(jnp.finfo(dtype).eps) * np.abs(once) + float(jnp.finfo(dtype).smallest_subnormal)
        assert (np.abs(got[path].astype(np.float32) - once) <= ulp).all(), path


@pytest.mark.parametrize("num", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 7, 20, 64))])
@pytest.mark.parametrize("name", slow_but(FAST, KEEP))
def test_identical_networks_come_back_bit_for_bit(name, num):
    """Also numbers so small that arithmetic takes them for zero."""
    base, params = mixed(0), mixed(1)
    for path, dtype in FLOATS.items():
        params[path].flat[0] = jnp.finfo(dtype).smallest_subnormal
    got = merged(name, [params] * num, base)
    for path, leaf in params.items():
        assert got[path].tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_64_bits_change_nothing_in_32(name):
    base, *models = (floats(seed) for seed in range(4))
    expected = merged(name, models, base)
    with jax.enable_x64(True):
        got = merged(name, models, base)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_LEAF)
def test_64_bits_are_used_where_they_are_given(name):
    base, *models = (floats(seed, np.float64) for seed in range(4))
    near = [{path: leaf + 1e-12 for path, leaf in params.items()} for params in models]
    with jax.enable_x64(not can_stream(BUILT[name])):  # others are given them without asking
        got, moved = merged(name, models, base), merged(name, near, base)
        if name in KEEP:
            chex.assert_trees_all_equal(merged(name, [models[0]] * 3, base), models[0])
    assert all(leaf.dtype == np.float64 for leaf in got.values())
    changes = np.concatenate([np.ravel(moved[path] - got[path]) for path in got])
    assert np.abs(changes).max() > 1e-14  # which float32 would not see


FAST_HALF = {"fisher", "max_model", "simple_ensemble", "weight_matching", "z_ensemble"}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", slow_but(FAST_HALF, [name for name in METHODS if name not in BY_LEAF]))
def test_networks_that_run_in_half_precision(name, dtype, mlp):
    """Merged in their own precision, and finite; also where the merged network is another program."""

    def network(seed):
        return jax.tree.map(lambda leaf: leaf.astype(HALF[dtype]), params_for(mlp, seed))

    models, x = [network(0), network(1)], inputs_for(mlp).astype(HALF[dtype])
    base = {"base": network(9)} if name in NEED_BASE else {}
    result = af.merge(*models, mlp.perm_spec, x, method=name, **METHODS[name], **base)
    if name not in OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
    assert np.dtype(HALF[dtype]) in {leaf.dtype for leaf in jax.tree.leaves(result.params)}
    for leaf in jax.tree.leaves((result.params, result.apply_fn(result.params, x))):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()


SCALED = {"wudi": "its optimiser takes steps of one size"}
"""Methods to which the scale of the networks matters, with the reason."""


@pytest.mark.parametrize("name", slow_but(FAST, [name for name in BY_LEAF if name not in SCALED]))
def test_the_scale_of_networks_decides_nothing(name):
    """Networks times a power of two give the merged network times the same."""
    networks = [floats(seed) for seed in range(4)]
    expected = merged(name, networks[1:], networks[0])
    for power in (-60, 40):
        scaled = [jax.tree.map(lambda leaf, p=power: np.ldexp(leaf, p), params) for params in networks]
        got = merged(name, scaled[1:], scaled[0])
        for path, leaf in expected.items():
            back = np.ldexp(got[path], -power)
            np.testing.assert_allclose(back, leaf, rtol=1e-5, atol=1e-6, err_msg=f"{path} at 2^{power}")


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_the_largest_numbers_do_not_overflow(name):
    """Where all networks are the base, and where they differ by more than the largest number."""
    base, *models = (
        jax.tree.map(lambda leaf: np.float32(1.8e38) * np.sign(leaf), floats(seed)) for seed in range(4)
    )
    chex.assert_trees_all_close(merged(name, [base] * 3, base), base, rtol=1e-6)
    if name in KEEP:
        chex.assert_tree_all_finite(merged(name, models, base))


EQUAL_WIDTHS = build_model("mlp", (4, 4), widths=(6, 6, 6), num_classes=3)
READ_SITES = [name for name in METHODS if name not in ASSUME_ALIGNED and name not in ("confidence_ensemble",)]


@pytest.mark.parametrize("name", slow_but({"activation_matching", "zipit"}, READ_SITES))
def test_a_spec_of_other_dtypes_leads_to_the_same_places(name):
    """Networks in half precision on float32 inputs run more steps than those the spec was inferred from."""
    model, x = EQUAL_WIDTHS, inputs_for(EQUAL_WIDTHS)
    narrow = [
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params_for(model, seed)) for seed in range(2)
    ]
    own = af.infer_perm_spec(model.apply, narrow[0], x, check=False)
    got, expected = (
        af.merge(*narrow, spec, x, method=name, **METHODS[name], **given(name, narrow))
        for spec in (model.perm_spec, own)
    )
    chex.assert_trees_all_equal(got.params, expected.params)


def given(name, models):
    return {"base": models[0]} if name in NEED_BASE else {}
