"""Group elements of inferred specs with nesting, stacks, products, sums, concatenations and families."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.symmetry.transform import soften
from tests.symmetry.zoo import CASES

STRUCTURED = [
    "nested_twice", "resnet20_padded_both_sides", "reshape_no_op", "scan_over_layers", "vit_fused_timm",
    "vit_fused_per_head", "moe_dense", "llama", "densenet", "channel_shuffle", "lstm_fused",
]  # fmt: skip
structured = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if n else ()) for n, name in enumerate(STRUCTURED)]
)


@functools.cache
def case(name):
    apply_fn, params, x = CASES[name].make()
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    return spec, params, jax.jit(functools.partial(af.apply_perm, spec, params))


@structured
@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_group_laws(name, seed):
    spec, params, permuted = case(name)
    p, q = (af.random_perms(spec, k) for k in jax.random.split(jax.random.key(seed)))
    both = af.apply_perm(spec, permuted(q), p)
    chex.assert_trees_all_equal(permuted(af.compose(spec, p, q)), both)
    chex.assert_trees_all_equal(af.compose(spec, p, af.invert(spec, p)), af.identity_perms(spec))
    chex.assert_trees_all_equal(af.compose(spec, af.invert(spec, p), p), af.identity_perms(spec))
    chex.assert_trees_all_equal(permuted(af.identity_perms(spec)), params)


@structured
def test_soft_and_merge_at_a_permutation_are_hard(name):
    spec, params, permuted = case(name)
    perms = af.random_perms(spec, jax.random.key(3))
    soft = soften(spec, perms)
    unmerge = {group: jnp.swapaxes(matrix, -1, -2) for group, matrix in soft.items()}
    chex.assert_trees_all_close(af.apply_soft(spec, params, soft), permuted(perms), atol=1e-5)
    chex.assert_trees_all_close(af.apply_merge(spec, params, soft, unmerge), permuted(perms), atol=1e-5)


@structured
def test_vmap_over_perms(name):
    spec, _, permuted = case(name)
    many = jax.vmap(lambda key: af.random_perms(spec, key))(jax.random.split(jax.random.key(0), 2))
    batched = jax.vmap(permuted)(many)
    for i in range(2):
        one = permuted(jax.tree.map(lambda v, i=i: v[i], many))
        chex.assert_trees_all_equal(jax.tree.map(lambda v, i=i: v[i], batched), one)


def deep_linear(params, x):
    return x @ params["a"] @ params["b"] @ params["c"]


def test_merge_with_an_inverse_keeps_a_linear_network():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5), "b": (5, 4), "c": (4, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    spec = af.infer_perm_spec(deep_linear, params, x)
    merge = {name: rng.normal(size=(g.size, g.size)) + 2 * np.eye(g.size) for name, g in spec.groups.items()}
    unmerge = {name: np.linalg.inv(matrix) for name, matrix in merge.items()}
    as_arrays = [{n: jnp.asarray(m, jnp.float32) for n, m in each.items()} for each in (merge, unmerge)]
    merged = af.apply_merge(spec, params, *as_arrays)
    np.testing.assert_allclose(deep_linear(merged, x), deep_linear(params, x), rtol=1e-3, atol=1e-4)
    expected = np.asarray(params["a"], np.float64) @ merge["a"].T
    np.testing.assert_allclose(merged["a"], expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"unmerge_matrices\['a'\] must be floats of shape \(5, 5\)"):
        af.apply_merge(spec, params, as_arrays[0], {**as_arrays[1], "a": jnp.ones((4, 5))})


def test_zipit_of_two_networks_by_hand():
    """`sum_k M_k W_k U_k`: averaging matched units is ZipIt's merge of two permuted copies."""
    spec, params, _ = case("reshape_no_op")
    perms = af.random_perms(spec, jax.random.key(0))
    copy = af.apply_perm(spec, params, perms)
    back = soften(spec, af.invert(spec, perms))
    halves = {n: 0.5 * jnp.eye(g.size) for n, g in spec.groups.items()}
    wholes = {n: jnp.eye(g.size) for n, g in spec.groups.items()}
    first = af.apply_merge(spec, params, halves, wholes)
    second = af.apply_merge(
        spec,
        copy,
        {n: 0.5 * m for n, m in back.items()},
        {n: jnp.swapaxes(m, -1, -2) for n, m in back.items()},
    )
    produced = [leaf.path for leaf in spec.leaves if any(axis.role == "out" for axis in leaf.axes)]
    assert produced
    for path in produced:
        np.testing.assert_allclose(first[path] + second[path], params[path], atol=1e-5)


@pytest.mark.slow
def test_donated_parameters_are_given_away():
    spec, params, permuted = case("densenet")
    perms = af.random_perms(spec, jax.random.key(1))
    expected = permuted(perms)
    soft = soften(spec, perms)
    for apply, element in ((af.apply_perm, perms), (af.apply_soft, soft)):
        copy = jax.tree.map(jnp.array, params)
        chex.assert_trees_all_close(apply(spec, copy, element, donate=True), expected, atol=1e-5)
        assert any(leaf.is_deleted() for leaf in jax.tree.leaves(copy))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
