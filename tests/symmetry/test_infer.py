"""Inferred specs of the zoo: hand-derived groups, invariance, and nothing left out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.symmetry.axes import Axis, Factor, fixed_axis
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.spec import LeafSpec
from autofusion_jax.trees import flatten_by_path
from tests.symmetry.zoo import CASES
from tests.symmetry.zoo.case import apply_move

cases = pytest.mark.parametrize("name", CASES)
MOVES = [(name, number) for name, case in CASES.items() for number in range(len(case.moves))]


@functools.cache
def inferred(name):
    apply_fn, params, x = CASES[name].make()
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)

    @jax.jit
    def run(perms):
        """The outputs and the values at all sites of the permuted network."""
        permuted = af.apply_perm(spec, params, perms)
        return jax.tree.leaves(apply_fn(permuted, x)), af.capture_sites(spec, permuted, x)

    return spec, params, run


@cases
def test_groups_are_those_derived_by_hand(name):
    spec, _, _ = inferred(name)
    case = CASES[name]
    assert sorted(g.size for g in spec.groups.values()) == sorted(case.sizes), case.why
    assert sorted(g.size for g in spec.groups.values() if g.nested_in) == sorted(case.nested), case.why


@pytest.mark.slow
@cases
@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**31 - 1))
def test_the_function_is_kept(name, seed):
    spec, _, run = inferred(name)
    before, _ = run(af.identity_perms(spec))
    after, _ = run(af.random_perms(spec, jax.random.key(seed)))
    for a, b in zip(before, after):
        assert_near(b, a)


@pytest.mark.slow
@cases
def test_sites_move_with_their_group(name):
    spec, _, run = inferred(name)
    still = af.identity_perms(spec)
    drawn = af.random_perms(spec, jax.random.key(1))
    _, before = run(still)
    assert set(before) == {site.name for site in spec.sites}
    for group in spec.groups:
        perms = {**still, group: drawn[group]}
        _, after = run(perms)
        for site in (site for site in spec.sites if site.group == group):
            assert_near(after[site.name], moved(spec, group, before[site.name], perms))


def assert_near(got, expected):
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(got, expected, atol=2e-4 * scale + 1e-6, rtol=0)


def moved(spec, group, value, perms):
    """The values `[*rest, *outer, n]` of a site after a group element."""
    names = (*spec.groups[group].nested_in, group)
    factors = [
        Factor(size, stack=name) if name in spec.stacks else Factor(size, name)
        for name, size in zip(names, value.shape[-len(names) :])
    ]
    rest = [fixed_axis(size) for size in value.shape[: -len(names)]]
    axes = (*rest, *(Axis(((f,),), "out" if f.group else None) for f in factors))
    return af.apply_perm(
        dataclasses.replace(spec, leaves=(LeafSpec("value", axes),)), {"value": value}, perms
    )["value"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), MOVES)
def test_planted_symmetries_are_in_the_group(name, number):
    spec, params, _ = inferred(name)
    move = CASES[name].moves[number]
    leaves = flatten_by_path(params)
    numbered = jax.tree.unflatten(
        jax.tree.structure(params), [np.arange(np.size(v)).reshape(np.shape(v)) for v in leaves.values()]
    )
    found = af.apply_perm(spec, numbered, element_of(spec, params, move))
    for (path, got), expected in zip(
        flatten_by_path(found).items(), jax.tree.leaves(apply_move(numbered, move))
    ):
        np.testing.assert_array_equal(got, expected, err_msg=f"{path}: {CASES[name].why}")


def element_of(spec, params, move):
    """The only group element that a move can be: where each unit's coordinates come from."""
    element = {name: np.array(perm) for name, perm in af.identity_perms(spec).items()}
    leaves = flatten_by_path(params)
    for leaf in (leaf for leaf in spec.leaves if leaf.path in move):
        shape = np.shape(leaves[leaf.path])
        for group in dict.fromkeys(name for axis in leaf.axes for name in axis.groups):
            names = (*spec.groups[group].nested_in, group)
            at = {name: coordinate(spec, leaf, name, shape) for name in names}
            source = apply_move({leaf.path: at[group]}, {leaf.path: move[leaf.path]})[leaf.path]
            carried = at[group] >= 0
            element[group][tuple(at[name][carried] for name in names)] = np.asarray(source)[carried]
    return {name: jnp.asarray(perm) for name, perm in element.items()}


def coordinate(spec, leaf, wanted, shape):
    """The index along a group or stack of every entry of a leaf, -1 where it does not carry it."""

    def action(piece, axis, outer_axes, name, role):
        if name != wanted:
            return piece
        index = jnp.arange(piece.shape[axis]).reshape([-1 if n == axis else 1 for n in range(piece.ndim)])
        return jnp.broadcast_to(index, piece.shape)

    if wanted in spec.stacks:  # a fixed factor: let it pass as a group
        spec = dataclasses.replace(spec, groups={wanted: af.Group(wanted, spec.stacks[wanted])}, leaves=())
        axes = tuple(
            Axis((tuple(Factor(t.size, t.stack) for t in axis.blocks[0]),), "out") for axis in leaf.axes
        )
        return np.array(transform_axes(spec, axes, jnp.full(shape, -1), action))
    return np.array(transform_axes(spec, leaf.axes, jnp.full(shape, -1), action))
