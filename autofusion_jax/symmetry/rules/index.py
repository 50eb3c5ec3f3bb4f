"""Primitives about positions: iota, argmax, top_k, sort, gather, scatter, dynamic slices.

Entries that are positions along an axis ("index" values) move with that axis: an argmax over
permuted units is the permuted position. So one_hot(argmax(h)), a top-k router, or a look-up
by such a position keep the axis free, as long as no two entries tie. Under `tracer.strict`
ties may occur, and those axes are fixed.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from autofusion_jax.symmetry.labels import Factors, Label, fixed_axis, is_constant, pin, total
from autofusion_jax.symmetry.rules.elementwise import elementwise
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import NOWHERE, Origin, Tracer, Value
from autofusion_jax.symmetry.unify import unify


@rule("iota")
def iota(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Positions along one axis, constant along the others."""
    shape, dim = eqn.params["shape"], eqn.params["dimension"]
    axes: list[Factors] = [[size] for size in shape]
    if shape[dim] > 1:
        axes[dim] = [Label(shape[dim])]
    return [Value(axes, live=False, index=axes[dim])]


@rule("argmax argmin")
def argmax(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The position of the largest entry."""
    value, dims = inputs[0], eqn.params["axes"]
    kept = value.pick([d for d in range(len(value.axes)) if d not in dims])
    tracer.note_together(kept.axes)
    if len(dims) == 1 and _may_move(tracer, value.axes[dims[0]], "an argmax", eqn):
        return [dataclasses.replace(kept, index=value.axes[dims[0]])]
    for dim in dims:
        pin(value.axes[dim], "an argmax")
    return [kept]


@rule("top_k", mixes=True)
def top_k(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The k largest entries, largest first, and their positions."""
    value = inputs[0]
    dim = eqn.params.get("axis", -1) % len(value.axes)
    axes = list(value.axes)
    axes[dim] = fixed_axis(eqn.params["k"], "ordered by size")
    values = Value(axes, live=value.live)
    if _may_move(tracer, value.axes[dim], "a top_k", eqn):
        return [values, dataclasses.replace(values, index=value.axes[dim])]
    return [values, values]


@rule("sort", reads_index=True, mixes=True)
def sort(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Sorted entries do not depend on the order they came in; what is carried along may on ties."""
    dim = eqn.params["dimension"]
    carried = len(inputs) > eqn.params["num_keys"]
    for number, value in enumerate(inputs):
        if value.index is not None and (number < eqn.params["num_keys"] or value.shifted):
            pin(value.index, "positions that are sorted by")
    positions = [value.index for value in inputs]
    out = elementwise(tracer, eqn, inputs)[0]
    axis = out.axes[dim]
    axes = list(out.axes)
    axes[dim] = fixed_axis(total(axis), "ordered by size")
    moves = not carried or _may_move(tracer, axis, "a sort that carries others along", eqn)
    outputs = [Value(axes, live=out.live) for _ in inputs]
    for output, position in zip(outputs, positions):
        if position is not None and moves and total(position) == total(axis):
            output.index = position
        elif position is not None:
            pin(position, "arithmetic on its positions")
    return outputs


def _may_move(tracer: Tracer, axis: Factors, what: str, eqn: Any) -> bool:
    """Tell whether positions along an axis may be followed; otherwise fix it. Only reals do not tie."""
    real = jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating)
    if tracer.strict or is_constant(axis) or not real:
        pin(axis, what)
        return False
    tracer.assumes_no_ties = True
    return True


@rule("gather", reads_index=True)
def gather(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Looked-up axes are fixed, or those that the positions belong to; whole windows pass."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    value, indices = inputs
    value_batch = tuple(numbers.operand_batching_dims)
    index_axes = [list(axis) for axis in indices.axes[:-1]]
    for ours, theirs in zip(value_batch, numbers.start_indices_batching_dims):
        index_axes[theirs] = unify(value.axes[ours], index_axes[theirs])
    _look_up(value, indices, numbers.start_index_map)
    tracer.note_together([value.axes[i] for i in (*value_batch, *numbers.start_index_map)])
    if value.index is not None:
        pin(value.index, "positions that are looked up")
    window = [i for i in range(len(value.axes)) if i not in (*numbers.collapsed_slice_dims, *value_batch)]
    tracer.note_together([value.axes[i] for i in (*window, *value_batch)])
    tracer.note_together(index_axes)
    axes: list[Factors] = []
    origin: list[Origin] = []
    for dim in range(len(eqn.outvars[0].aval.shape)):
        if dim not in numbers.offset_dims:
            axes.append(index_axes.pop(0))
            origin.append(NOWHERE)
            continue
        source = window.pop(0)
        axes.append(_window_axis(value.axes[source], sizes[source], sizes[source]))
        origin.append(value.origin[source])
    return [Value(axes, origin, value.live or indices.live)]


def _window_axis(axis: Factors, window: int, size: int) -> Factors:
    """The axis itself if the window spans all of it, else a fixed one of `size`."""
    if window == total(axis):
        return axis
    pin(axis, "only a part of it is read or written")
    return fixed_axis(size, "only a part of it is read or written")


def _look_up(value: Value, indices: Value, dims: tuple[int, ...]) -> None:
    """Match the looked-up axes of `value` with the axis that the positions belong to, or fix them."""
    pin(indices.axes[-1], "an index vector")
    index = indices.index
    follows = index is not None and not indices.shifted and len(dims) == 1
    if index is not None and follows and total(value.axes[dims[0]]) == total(index):
        unify(value.axes[dims[0]], index)
        return
    if index is not None:
        pin(index, "positions that are looked up elsewhere")
    for dim in dims:
        pin(value.axes[dim], "a look-up")


@rule("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max", mixes=True)
def scatter(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Whole windows of the updates match the operand; the axes written to are fixed."""
    value, indices, updates = inputs
    numbers = eqn.params["dimension_numbers"]
    batch = tuple(numbers.operand_batching_dims)
    skipped = (*numbers.inserted_window_dims, *batch)
    pin(indices.axes[-1], "an index vector")
    axes = list(value.axes)
    update_axes = [updates.axes[dim] for dim in numbers.update_window_dims]
    for dim, update in zip((d for d in range(len(axes)) if d not in skipped), update_axes):
        if total(axes[dim]) == total(update) and dim not in numbers.scatter_dims_to_operand_dims:
            axes[dim] = unify(axes[dim], update)
        else:
            pin(axes[dim], "a partial update")
            pin(update, "a partial update")
            axes[dim] = fixed_axis(total(axes[dim]), "a partial update")
    for dim, update in enumerate(updates.axes):
        if dim not in numbers.update_window_dims:
            pin(update, "updates by index")
    for axis in indices.axes:
        pin(axis, "updates by index")
    for dim in skipped:
        pin(axes[dim], "updated by index")
        axes[dim] = fixed_axis(total(axes[dim]), "updated by index")
    return [Value(axes, live=any(v.live for v in inputs))]


@rule("dynamic_slice", mixes=True)
def dynamic_slice(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Axes that are sliced at a computed place are fixed; whole ones pass."""
    value = inputs[0]
    axes = [_window_axis(axis, size, size) for axis, size in zip(value.axes, eqn.params["slice_sizes"])]
    live = any(operand.live for operand in inputs)
    return [Value(axes, [] if live else value.origin, live)]


@rule("dynamic_update_slice", mixes=True)
def dynamic_update_slice(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Axes that are updated at a computed place are fixed; whole ones are the same."""
    value, update = inputs[:2]
    axes = []
    for ours, theirs in zip(value.axes, update.axes):
        if total(ours) == total(theirs):
            axes.append(unify(ours, theirs))
        else:
            pin(theirs, "a partial update")
            axes.append(_window_axis(ours, total(theirs), total(ours)))
    return [Value(axes, live=any(operand.live for operand in inputs))]
