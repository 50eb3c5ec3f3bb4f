"""The zoo: its hand-written groups and moves are sound, and inference finds them all and nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.symmetry.axes import Axis, Factor, fixed_axis
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.spec import LeafSpec
from autofusion_jax.trees import flatten_by_path
from tests.symmetry.zoo import CASES
from tests.symmetry.zoo.case import apply_move, randomise

FAST = ("mlp_linen", "vgg_linen", "attention_linen")
"""Networks whose laws are in the fast suite; those of all bundled models are (tests/models)."""

LAWS = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CASES]


@functools.cache
def made(name):
    return CASES[name].make()


@functools.cache
def inferred(name):
    apply_fn, params, x = made(name)
    return af.infer_perm_spec(apply_fn, params, x, check=False)


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_derived_by_hand(name):
    case = CASES[name]
    expect_well_formed(case, flatten_by_path(made(name)[1]))
    groups = inferred(name).groups.values()
    assert sorted(g.size for g in groups) == sorted(case.sizes), case.why
    assert sorted(g.size for g in groups if g.nested_in) == sorted(case.nested), case.why


def expect_well_formed(case, leaves):
    assert list(case.sizes) == sorted(case.sizes) and list(case.nested) == sorted(case.nested)
    assert all(size > 1 for size in case.sizes)
    assert all(case.nested.count(size) <= case.sizes.count(size) for size in case.nested)
    assert case.why
    assert bool(case.moves) == bool(case.sizes)
    for move in case.moves:
        assert move.keys() <= leaves.keys()
        for path, steps in move.items():
            for axis, index in steps:
                shape = np.shape(leaves[path])
                assert index.shape == (shape if axis is None else (shape[axis],))
                assert axis is None or 0 <= axis < len(shape)
                np.testing.assert_array_equal(np.sort(index, axis=None), np.arange(index.size))


@pytest.mark.parametrize("name", LAWS)
def test_moves_keep_the_function_and_their_halves_do_not(name):
    """The hand-written moves, checked without the library's own inference."""
    apply_fn, params, x = made(name)
    run = jax.jit(apply_fn)
    before = outputs(run, params, x)
    assert all(np.isfinite(y).all() and 1e-2 < np.abs(y).max() < 1e3 for y in before)
    for number, move in enumerate(CASES[name].moves):
        moved = change(before, outputs(run, apply_move(params, move), x))
        assert moved < 1e-4, f"move {number} changes the outputs by {moved:.1e}"
        first = next(iter(move))
        part = change(before, outputs(run, apply_move(params, {first: move[first]}), x))
        assert part > 1e-3, f"move {number} in {first} alone changes the outputs by {part:.1e} only"


def outputs(apply_fn, params, x):
    return [np.asarray(y, np.float64) for y in jax.tree.leaves(apply_fn(params, x))]


def change(before, after):
    """The largest change of any output, relative to the largest entry of that output."""
    return max(np.abs(b - a).max() / np.abs(b).max() for b, a in zip(before, after))


@pytest.mark.parametrize("name", LAWS)
def test_group_elements_keep_the_function_move_the_sites_and_contain_the_moves(name):
    apply_fn, params, x = made(name)
    spec = inferred(name)

    @jax.jit
    def run(perms):
        """The outputs and the values at all sites of the permuted network."""
        permuted = af.apply_perm(spec, params, perms)
        return jax.tree.leaves(apply_fn(permuted, x)), af.capture_sites(spec, permuted, x)

    still = af.identity_perms(spec)
    before, at_sites = run(still)
    assert set(at_sites) == {site.name for site in spec.sites}
    drawn = [af.random_perms(spec, jax.random.key(seed)) for seed in range(4)]
    for perms in drawn:
        for a, b in zip(before, run(perms)[0]):
            assert_near(b, a)
    for group in spec.groups:
        perms = {**still, group: drawn[0][group]}
        _, after = run(perms)
        for site in (site for site in spec.sites if site.group == group):
            assert_near(after[site.name], moved(spec, group, at_sites[site.name], perms))
    expect_planted_moves(CASES[name], spec, params)


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


def expect_planted_moves(case, spec, params):
    """Every hand-written move is an element of the group that was found."""
    leaves = flatten_by_path(params)
    numbered = jax.tree.unflatten(
        jax.tree.structure(params), [np.arange(np.size(v)).reshape(np.shape(v)) for v in leaves.values()]
    )
    for move in case.moves:
        found = af.apply_perm(spec, numbered, element_of(spec, params, move))
        for (path, got), expected in zip(
            flatten_by_path(found).items(), jax.tree.leaves(apply_move(numbered, move))
        ):
            np.testing.assert_array_equal(got, expected, err_msg=f"{path}: {case.why}")


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


def test_random_leaves_are_generic():
    shapes = {"kernel": (3, 4), "bias": (4,), "scale": (4,), "var": (4,)}
    leaves = randomise({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()})
    assert (leaves["var"] > 0).all()
    assert all(np.unique(leaf).size == leaf.size for leaf in leaves.values())
