"""Primitives that rearrange entries: reshape, transpose, broadcast, concatenate, slice, pad."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from autofusion_jax.symmetry.labels import (
    Factors,
    Label,
    concatenate,
    fixed_axis,
    is_constant,
    pin,
    resolve,
    select,
    total,
)
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import NOWHERE, Origin, Tracer, Value, fixed_value
from autofusion_jax.symmetry.unify import UNALIGNED, take_range, try_split, unify


@rule("broadcast_in_dim", reads_index=True)
def broadcast_in_dim(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """New axes are constant."""
    value, shape = inputs[0], eqn.params["shape"]
    axes: list[Factors] = [[size] for size in shape]
    origin = [NOWHERE] * len(shape)
    for source, target in enumerate(eqn.params["broadcast_dimensions"]):
        if total(value.axes[source]) == shape[target]:
            axes[target] = value.axes[source]
        origin[target] = value.origin[source]
    return [value.with_axes(axes, origin)]


@rule("reshape", reads_index=True)
def reshape(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Axes merge into products and split into factors, segment by segment."""
    shape = eqn.outvars[0].aval.shape
    if 0 in shape:
        return [fixed_value(eqn.outvars[0].aval, "empty")]
    value = inputs[0]
    axes: list[Factors] = []
    origin: list[Origin] = []
    for sources, sizes in segments([total(axis) for axis in value.axes], shape):
        whole = [factor for source in sources for factor in value.axes[source]]
        axes += split_into(whole, sizes)
        origin += [frozenset().union(*(value.origin[source] for source in sources))] * len(sizes)
    return [value.with_axes(axes, origin, made=value.made)]


def segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the shortest runs of old axes and new sizes of equal product, in order.

    Example:
        >>> segments((2, 12, 5), (2, 3, 4, 5))
        [([0], [2]), ([1], [3, 4]), ([2], [5])]
    """
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        sources, sizes, left, right = [], [], 1, 1
        while not sizes or left != right:
            if j < len(new) and (right < left or not sizes):
                sizes.append(new[j])
                right *= new[j]
                j += 1
            elif i < len(old):
                sources.append(i)
                left *= old[i]
                i += 1
            else:
                break
        while i < len(old) and old[i] == 1:
            i += 1
        out.append((sources, sizes))
    return out


def split_into(axis: Factors, sizes: Sequence[int]) -> list[Factors]:
    """Split an axis into axes of the given sizes; all become fixed where a factor crosses them."""
    rest, out = resolve(axis), []
    for number in range(len(sizes)):
        halves = try_split(rest, math.prod(sizes[number + 1 :]))
        if halves is None:
            for part in [axis, *out]:
                pin(part, UNALIGNED)
            return [fixed_axis(size, UNALIGNED) for size in sizes]
        out.append(halves[0])
        rest = halves[1]
    return out


@rule("squeeze", reads_index=True)
def squeeze(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Drop axes of size 1."""
    dropped = eqn.params["dimensions"]
    return [inputs[0].pick([d for d in range(len(inputs[0].axes)) if d not in dropped], keep_made=True)]


@rule("transpose", reads_index=True)
def transpose(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Reorder axes."""
    return [inputs[0].pick(eqn.params["permutation"], keep_made=True)]


@rule("rev", mixes=True)
def reverse(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Positions along the reversed axes are mixed."""
    return [mix(inputs[0], eqn.params["dimensions"], "reversed")]


def mix(value: Value, dims: Sequence[int], reason: str) -> Value:
    """Fix the axes `dims`; the result has new ones, or nesting under the old would survive."""
    axes = list(value.axes)
    for dim in dims:
        if not is_constant(axes[dim]):
            pin(axes[dim], reason)
            axes[dim] = fixed_axis(total(axes[dim]), reason)
    return Value(axes, live=value.live)


@rule("concatenate")
def concatenate_values(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Concatenated axes keep their blocks; all others are the same."""
    dim = eqn.params["dimension"]
    first, *others = inputs
    axes = list(first.axes)
    for number in range(len(axes)):
        if number == dim:
            axes[number] = concatenate([v.axes[dim] for v in inputs if total(v.axes[dim])])
        else:
            for value in others:
                axes[number] = unify(axes[number], value.axes[number])
    for block in _blocks_as_used(axes[dim]):
        tracer.note_together([*(axis for number, axis in enumerate(axes) if number != dim), block])
    live = any(value.live for value in inputs)
    origin = [frozenset().union(*(v.origin[n] for v in inputs)) for n in range(len(axes))]
    return [Value(axes, [] if live else origin, live)]


def _blocks_as_used(axis: Factors) -> list[Factors]:
    """The operands of a concatenation; units of different operands are not interchangeable."""
    whole = axis[0] if len(axis) == 1 else None
    return whole.parts if isinstance(whole, Label) and whole.kind == "concat" else []


@rule("slice")
def slice_value(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A slice cuts its axis; a stride takes one index of an inner factor."""
    params, value = eqn.params, inputs[0]
    strides = params["strides"] or [1] * len(value.axes)
    bounds = list(zip(params["start_indices"], params["limit_indices"]))
    axes = value.axes
    for dim, (start, stop) in enumerate(bounds):
        if stop - start < total(axes[dim]):
            axes = _select_member(axes, dim, start, stop)
    shape, out = eqn.outvars[0].aval.shape, []
    for dim, (axis, (start, stop), stride) in enumerate(zip(axes, bounds, strides)):
        size = shape[dim]
        if size == 0:
            out.append([0])
        elif stride != 1 and size > 1:
            out.append(_every(axis, start, stride, size))
            tracer.note_together([*(other for number, other in enumerate(axes) if number != dim), out[-1]])
        else:
            out.append(take_range(axis, start, start + size if stride != 1 else stop))
    return [value.with_axes(out, value.origin)]


def _every(axis: Factors, start: int, stride: int, size: int) -> Factors:
    """Every `stride`-th position: one index of an inner factor, if the axis splits so."""
    halves = try_split(axis, stride) if size * stride == total(axis) and start < stride else None
    if halves is None:
        pin(axis, "strided slice")
        return [size] if is_constant(axis) else fixed_axis(size, "strided slice")
    pin(halves[1], "strided slice")
    return halves[0]


def _select_member(axes: list[Factors], dim: int, start: int, stop: int) -> list[Factors]:
    """A single index along an outer factor chooses the members of the families over it."""
    axis = resolve(axes[dim])
    if not axis or isinstance(axis[0], int):
        return axes
    inner = total(axis[1:])
    if start % inner or stop - start != inner:
        return axes
    return [select(other, axis[0], start // inner) for other in axes]


@rule("split")
def split_value(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Consecutive slices along one axis."""
    value, dim, start, out = inputs[0], eqn.params["axis"], 0, []
    for size in map(int, eqn.params["sizes"]):
        axes = list(_select_member(value.axes, dim, start, start + size))
        axes[dim] = take_range(axes[dim], start, start + size) if size else [0]
        out.append(value.with_axes(axes, value.origin))
        start += size
    return out


@rule("stack")
def stack(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The operands side by side along a new axis, whose order is fixed; their axes are the same."""
    axes = list(inputs[0].axes)
    for value in inputs[1:]:
        axes = [unify(ours, theirs) for ours, theirs in zip(axes, value.axes)]
    dim = eqn.params["axis"]
    axes.insert(dim, fixed_axis(len(inputs), "the order of stacked values"))
    live = any(value.live for value in inputs)
    origin = [frozenset().union(*(v.origin[n] for v in inputs)) for n in range(len(axes) - 1)]
    origin.insert(dim, NOWHERE)
    return [Value(axes, [] if live else origin, live)]


@rule("unstack", reads_index=True)
def unstack(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The single indices along one axis."""
    value, dim, out = inputs[0], eqn.params["axis"], []
    rest = [d for d in range(len(value.axes)) if d != dim]
    for index in range(len(eqn.outvars)):
        axes = list(_select_member(value.axes, dim, index, index + 1))
        axes[dim] = take_range(axes[dim], index, index + 1)
        out.append(value.with_axes(axes, value.origin).pick(rest))
    return out


@rule("tile", reads_index=True)
def tile(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Whole copies one after the other: constant along a new outer factor."""
    value, reps = inputs[0], eqn.params["reps"]
    return [value.with_axes([[n, *axis] for n, axis in zip(reps, value.axes)], value.origin)]


@rule("pad", mixes=True)
def pad(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Padding adds blocks of one constant, whose units are interchangeable."""
    value, axes = inputs[0], []
    shape = eqn.outvars[0].aval.shape
    for axis, config, size in zip(value.axes, eqn.params["padding_config"], shape):
        low, high, interior = map(int, config)
        if low == high == interior == 0:
            axes.append(axis)
        elif interior or low < 0 or high < 0 or 0 in (total(axis), size):
            pin(axis, "padded inside or cropped")
            axes.append(fixed_axis(size, "padded inside or cropped"))
        else:
            blocks: list[Factors] = [[low], axis or [1], [high]]
            axes.append(concatenate([block for block in blocks if total(block)]))
    live = any(operand.live for operand in inputs)
    return [dataclasses.replace(value.with_axes(axes, [] if live else value.origin), live=live)]
