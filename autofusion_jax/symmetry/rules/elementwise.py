"""Primitives that work entry by entry: all their operands share one set of axes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from autofusion_jax.symmetry.labels import pin, total
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import NOWHERE, Tracer, Value
from autofusion_jax.symmetry.unify import unify

BY_ENTRY = """
abs acos acosh add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
complex conj cos cosh digamma eq_to erf erf_inv erfc exp exp2 expm1 floor gt ge igamma igammac
imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt_to max min mulhi nextafter not
one_minus_square or polygamma population_count pow real reduce_precision
regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic shift_right_logical
sign sin sinh sqrt square tan tanh xor zeta
"""

COPIES = """
convert_element_type copy copy_p device_put layout_constraint name neg optimization_barrier pvary
reduced_vary_cast reduced_vary_cast_p reshard sharding_constraint stop_gradient
vary_unreduced_cast vary_unreduced_cast_p with_memory_space_constraint
"""


@rule(BY_ENTRY)
def elementwise(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Make the axes of all operands the same; the rule for any primitive that works by entry."""
    rank = len(eqn.outvars[0].aval.shape)
    shape = eqn.outvars[0].aval.shape
    live = any(value.live for value in inputs)
    axes, origin = None, [NOWHERE] * rank
    for value in (value for value in inputs if len(value.axes) == rank):
        wide = [[n] if total(axis) == 1 != n else axis for axis, n in zip(value.axes, shape)]
        axes = wide if axes is None else [unify(a, b) for a, b in zip(axes, wide)]
        origin = [ours | theirs for ours, theirs in zip(origin, value.origin)]
        if live:
            tracer.use(value.origin, "out")
    return [Value(axes or [], [] if live else origin, live) for _ in eqn.outvars]


@rule("sub mul div")
def affine(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Elementwise; with a parameter it leaves a weight's output what it is: still linear."""
    out = elementwise(tracer, eqn, inputs)[0]
    live = [value for value in inputs if value.live]
    divides = eqn.primitive.name == "div" and live and live[0] is not inputs[0]
    if len(live) == 1 and live[0].made is not None and not divides:
        out.made = dataclasses.replace(live[0].made, path=tracer.path, axes=[*tracer.scans, *out.axes])
        if tracer.reachable:
            tracer.made.pop(live[0].made.path, None)
            tracer.made[tracer.path] = out.made
    return [out]


@rule("add", reads_index=True)
def add(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Addition. A position plus a number is watched: `where(i < 0, i + n, i)` never uses it."""
    positions = [value for value in inputs if value.index is not None]
    literals = [atom.val for atom in eqn.invars if isinstance(atom, jex.Literal)]
    if len(positions) == 1 and literals:
        shifted = positions[0].shifted or bool(np.any(literals[0] != 0))
        return [dataclasses.replace(positions[0], shifted=shifted)]
    return affine(tracer, eqn, _plain(inputs))


@rule("lt", reads_index=True)
def less_than(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Comparison; a position is never below zero."""
    bound = eqn.invars[1].val if isinstance(eqn.invars[1], jex.Literal) else 1
    if inputs[0].index is not None and not inputs[0].shifted and np.all(bound <= 0):
        return [dataclasses.replace(inputs[0], index=None, known=False)]
    return elementwise(tracer, eqn, _plain(inputs))


@rule("eq ne", reads_index=True)
def equal(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Equality; positions along one axis may be compared with each other (one_hot, eye)."""
    positions = [value.index for value in inputs if value.index is not None and not value.shifted]
    if len(positions) == 2 and total(positions[0]) == total(positions[1]):
        unify(*positions)
        outputs = elementwise(tracer, eqn, inputs)
        tracer.note_together([*outputs[0].axes, positions[0]])
        return outputs
    return elementwise(tracer, eqn, _plain(inputs))


@rule("select_n", reads_index=True)
def select(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Choice between cases; positions stay positions if the choice is known beforehand."""
    known = inputs[0].known
    if known is not None:
        chosen = inputs[1 + known]
        return [dataclasses.replace(chosen, leaf=None)]
    return elementwise(tracer, eqn, _plain(inputs))


@rule(COPIES, reads_index=True)
def copy(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Primitives that hand on what they get, up to dtype, placement or sign."""
    dtype = eqn.outvars[0].aval.dtype
    for number, value in enumerate(inputs):
        exact = jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).max >= total(value.index or [])
        if value.index is not None and (eqn.primitive.name == "neg" or not exact):
            _plain([value])
            inputs[number] = dataclasses.replace(value, index=None)
    return [dataclasses.replace(value, leaf=None) for value in inputs]


def _plain(values: list[Value]) -> list[Value]:
    """Fix the axes whose positions are about to be used as numbers."""
    for value in values:
        if value.index is not None:
            pin(value.index, "arithmetic on its positions")
    return values
