"""Fuzzing: a group that is inferred for any random program leaves its function as it is."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.symmetry.fuzz import OPS, RandomProgram, build

NUM_SEEDS, CHUNK = 150, 25
TOLERANCE = 1e-3  # an asymmetry changes the outputs by some 0.1; rounding by 1e-6
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
MIN_SHARE = 0.6  # of the programs have groups; the prototype found them in nine of ten


@functools.cache
def inferred(seed: int) -> tuple[RandomProgram, af.PermSpec]:
    program = build(seed)
    return program, af.infer_perm_spec(program.apply_fn, program.params, program.x, check=False)


def largest_change(program: RandomProgram, spec: af.PermSpec, elements: list[dict]) -> float:
    """The largest relative change of the outputs, at the precision of `params` and `x`."""

    @functools.partial(jax.jit, compiler_options=FAST_COMPILE)
    def outputs(params, perms, x):
        return program.apply_fn(af.apply_perm(spec, params, perms), x)

    first, *moved = (
        outputs(program.params, perms, program.x) for perms in [af.identity_perms(spec), *elements]
    )
    return max(float(jnp.abs(other - first).max() / jnp.abs(first).max()) for other in moved)


def in_float64(program: RandomProgram) -> RandomProgram:
    as_float64 = functools.partial(jnp.asarray, dtype=jnp.float64)
    return program._replace(params=jax.tree.map(as_float64, program.params), x=as_float64(program.x))


def is_unsound(seed: int) -> bool:
    """Whether a random element changes the outputs, in float64 if rounding could be to blame."""
    program, spec = inferred(seed)
    if not spec.groups:
        return False
    elements = [af.random_perms(spec, jax.random.key(number)) for number in range(2)]
    if largest_change(program, spec, elements) < TOLERANCE:
        return False
    with jax.enable_x64(True):
        return not largest_change(in_float64(program), spec, elements) < TOLERANCE


@pytest.mark.parametrize("start", range(0, NUM_SEEDS, CHUNK))
@pytest.mark.slow
def test_inferred_groups_keep_the_function(start):
    unsound = [seed for seed in range(start, start + CHUNK) if is_unsound(seed)]
    assert not unsound, "\n".join(f"seed {seed}: {', '.join(build(seed).ops)}" for seed in unsound)


def test_most_programs_have_groups():
    found = [bool(inferred(seed)[1].groups) for seed in range(2 * CHUNK)]
    assert np.mean(found) >= MIN_SHARE


def test_programs_are_drawn_from_their_seed():
    first, second = build(3), build(3)
    chex.assert_trees_all_equal(first.params, second.params)
    assert first.ops == second.ops
    out = jax.eval_shape(second.apply_fn, first.params, first.x)
    assert out.shape == (3, 2)


@pytest.mark.slow
def test_every_op_is_drawn():
    drawn = {line.split()[0] for seed in range(NUM_SEEDS) for line in build(seed).ops}
    assert set(OPS) <= drawn
