"""The hand-written moves of the zoo, checked without the library's own inference."""

import jax
import numpy as np
import pytest

from autofusion_jax.trees import flatten_by_path
from tests.symmetry.zoo import CASES
from tests.symmetry.zoo.case import apply_move, randomise


def outputs(apply_fn, params, x):
    return [np.asarray(y, np.float64) for y in jax.tree.leaves(apply_fn(params, x))]


def change(before, after):
    """The largest change of any output, relative to the largest entry of that output."""
    return max(np.abs(b - a).max() / np.abs(b).max() for b, a in zip(before, after))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_moves_keep_the_function_and_their_halves_do_not(name):
    apply_fn, params, x = CASES[name].make()
    run = jax.jit(apply_fn)
    before = outputs(run, params, x)
    assert all(np.isfinite(y).all() and 1e-2 < np.abs(y).max() < 1e3 for y in before)
    for number, move in enumerate(CASES[name].moves):
        moved = change(before, outputs(run, apply_move(params, move), x))
        assert moved < 1e-4, f"move {number} changes the outputs by {moved:.1e}"
        first = next(iter(move))
        part = change(before, outputs(run, apply_move(params, {first: move[first]}), x))
        assert part > 1e-3, f"move {number} in {first} alone changes the outputs by {part:.1e} only"


@pytest.mark.parametrize("name", CASES)
def test_cases_are_well_formed(name):
    case = CASES[name]
    assert list(case.sizes) == sorted(case.sizes) and list(case.nested) == sorted(case.nested)
    assert all(size > 1 for size in case.sizes)
    assert all(case.nested.count(size) <= case.sizes.count(size) for size in case.nested)
    assert case.why
    assert bool(case.moves) == bool(case.sizes)
    _, params, _ = case.make()
    leaves = flatten_by_path(params)
    for move in case.moves:
        assert move.keys() <= leaves.keys()
        for path, steps in move.items():
            for axis, index in steps:
                shape = np.shape(leaves[path])
                assert index.shape == (shape if axis is None else (shape[axis],))
                assert axis is None or 0 <= axis < len(shape)
                np.testing.assert_array_equal(np.sort(index, axis=None), np.arange(index.size))


def test_random_leaves_are_generic():
    shapes = {"kernel": (3, 4), "bias": (4,), "scale": (4,), "var": (4,)}
    leaves = randomise({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()})
    assert (leaves["var"] > 0).all()
    assert all(np.unique(leaf).size == leaf.size for leaf in leaves.values())
