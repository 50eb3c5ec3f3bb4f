"""Factoring of one array: split into the factors of its axes, acted on, and put together again."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.symmetry.axes import Axis, Block, Concat, Factor, Family, Role, Term, block_size
from autofusion_jax.symmetry.spec import PermSpec

Action: TypeAlias = Callable[[Array, int, tuple[int, ...], str, str], Array]
"""`action(leaf, axis, outer_axes, group, role)` moves one factor, which stands on `axis`."""

Terms: TypeAlias = list[tuple[Block, Role | None]]


def transform_axes(spec: PermSpec, axes: tuple[Axis, ...], value: Array, action: Action) -> Array:
    """Apply `action` to every factor of `value` that carries a group; see `transform`."""
    return _transform(spec, [(axis.block, axis.role) for axis in axes], value, action)


def views_of(spec: PermSpec, axes: tuple[Axis, ...], value: Array, group: str) -> list[Array]:
    """Every occurrence of a group in a value, as `[*rest, *outer, n]`."""
    views: list[Array] = []

    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name == group:
            where = (*outer_axes, axis)
            views.append(jnp.moveaxis(piece, where, range(-len(where), 0)))
        return piece

    transform_axes(spec, axes, value, action)
    return views


def _transform(spec: PermSpec, axes: Terms, value: Array, action: Action) -> Array:
    # no group on any axis: the array itself, without reshapes for XLA to take out again
    if not any(role for _, role in axes):
        return value
    # one composite term at a time; each call leaves one less, until there are only factors
    for kind, handle in ((Family, _transform_family), (Concat, _transform_concat)):
        for number, (block, _) in enumerate(axes):
            for position, term in enumerate(block):
                if isinstance(term, kind):
                    return handle(spec, axes, value, action, number, position)
    return _transform_plain(spec, axes, value, action)


def _expose(value: Array, axes: Terms, number: int, position: int) -> Array:
    """Split axis `number` in three: what is outside the term at `position`, the term, the rest."""
    block, shape = axes[number][0], value.shape
    split = (block_size(block[:position]), block[position].size, block_size(block[position + 1 :]))
    return jnp.reshape(value, (*shape[:number], *split, *shape[number + 1 :]))


def _hide(value: Array, number: int) -> Array:
    """Undo `_expose`."""
    shape = value.shape
    merged = shape[number] * shape[number + 1] * shape[number + 2]
    return jnp.reshape(value, (*shape[:number], merged, *shape[number + 3 :]))


def _replaced(axes: Terms, number: int, position: int, block: Block) -> Terms:
    """The axes with the term at `position` of axis `number` replaced by a block."""
    old, role = axes[number]
    return [*axes[:number], ((*old[:position], *block, *old[position + 1 :]), role), *axes[number + 1 :]]


def _transform_family(
    spec: PermSpec, axes: Terms, value: Array, action: Action, number: int, position: int
) -> Array:
    """Each index along the family's stack has axes of its own."""
    family = axes[number][0][position]
    assert isinstance(family, Family)
    where = [
        (n, p)
        for n, (block, _) in enumerate(axes)
        for p, term in enumerate(block)
        if isinstance(term, Factor) and term.stack == family.stack
    ]
    # its index chooses the member; it may be on another axis than the family
    n, p = where[0]
    split = _expose(value, axes, n, p)
    members = []
    for index in range(len(family.members)):
        chosen: Terms = [(_select(block, family.stack, index), role) for block, role in axes]
        # at one index the stack has size 1; the term stays, so that (n, p) is valid for the result as well
        single = _replaced(chosen, n, p, (Factor(1),))
        part = jax.lax.slice_in_dim(split, index, index + 1, axis=n + 1)
        members.append(_expose(_transform(spec, single, _hide(part, n), action), single, n, p))
    return _hide(jnp.concatenate(members, axis=n + 1), n)


def _select(block: Block, stack: str, index: int) -> Block:
    """Replace the families over `stack` by one of their members, keeping positions of other terms."""
    terms: list[Term] = []
    for term in block:
        if isinstance(term, Family) and term.stack == stack:
            member = term.members[index]
            # several terms are wrapped as one, so that the terms after them keep their position
            terms.append(member[0] if len(member) == 1 else Concat((_select(member, stack, index),)))
        elif isinstance(term, Concat):
            terms.append(Concat(tuple(_select(inner, stack, index) for inner in term.blocks)))
        else:
            terms.append(term)
    return tuple(terms)


def _transform_concat(
    spec: PermSpec, axes: Terms, value: Array, action: Action, number: int, position: int
) -> Array:
    """Each block is transformed on its own; blocks that are parts of one group go together."""
    concat = axes[number][0][position]
    assert isinstance(concat, Concat)
    split = _expose(value, axes, number, position)
    starts = [sum(map(block_size, concat.blocks[:i])) for i in range(len(concat.blocks) + 1)]
    parts: dict[int, Array] = {}
    for block, members in _bundles(spec, concat):
        # parts of one sum group lie in blocks apart from each other: one permutation runs over all of them,
        # so they are put side by side before it acts
        pieces = [jax.lax.slice_in_dim(split, starts[i], starts[i + 1], axis=number + 1) for i in members]
        joined = jnp.concatenate(pieces, axis=number + 1) if len(pieces) > 1 else pieces[0]
        bundle = _replaced(axes, number, position, block)
        moved = _transform(spec, bundle, _hide(joined, number), action)
        shape = (*split.shape[: number + 1], block_size(block), *split.shape[number + 2 :])
        moved = jnp.reshape(moved, shape)
        sizes = [starts[i + 1] - starts[i] for i in members]
        # back to the blocks they came from: units may have changed blocks, sizes have not
        stops = [sum(sizes[:i]) for i in range(1, len(sizes))]
        parts.update(zip(members, jnp.split(moved, stops, axis=number + 1)))
    return _hide(jnp.concatenate([parts[i] for i in range(len(parts))], axis=number + 1), number)


def _bundles(spec: PermSpec, concat: Concat) -> list[tuple[Block, list[int]]]:
    """The blocks of a concatenation, those that carry parts of one group taken together."""
    out: dict[object, tuple[Block, list[int]]] = {}
    seen: collections.Counter[Block] = collections.Counter()
    for number, block in enumerate(concat.blocks):
        seen[block] += 1
        terms, key = [], []
        for term in block:
            whole = isinstance(term, Factor) and term.group and spec.groups[term.group].combined == "sum"
            if whole and isinstance(term, Factor) and term.group:
                term = Factor(spec.groups[term.group].size, term.group)
                key.append(term)
            terms.append(term)
        which = (tuple(terms), seen[block]) if key else number  # the n-th copies of all parts go together
        bundle = out.setdefault(which, (tuple(terms), []))
        bundle[1].append(number)
    for _, members in out.values():
        members.sort(key=lambda i: [f.part for f in concat.blocks[i] if isinstance(f, Factor) and f.group])
    return list(out.values())


def _transform_plain(spec: PermSpec, axes: Terms, value: Array, action: Action) -> Array:
    """Only factors are left: split all axes, act, and merge them again."""
    factors: list[_Place] = []
    for number, (block, role) in enumerate(axes):
        factors += [_Place(term, 0, number, role) for term in block if isinstance(term, Factor)]
    out = jnp.reshape(value, [place.factor.size for place in factors])
    order = _brought_together(spec, [place.factor for place in factors])
    flat = [position for run in order for position in run]
    # the parts of a product group side by side, whatever axes they were on: then they are one axis
    out = jnp.transpose(out, flat)
    split_shape = out.shape
    out = jnp.reshape(out, [math.prod(factors[position].factor.size for position in run) for run in order])
    places = [dataclasses.replace(factors[run[0]], position=number) for number, run in enumerate(order)]
    carrying = [place for place in places if place.factor.group]
    # outermost group first, as out[h, i] = b[outer[h], inner[h, i]]: the inner permutations are numbered by
    # the place that a unit's head has moved to
    for place in sorted(carrying, key=lambda place: len(spec.groups[place.group].nested_in)):
        outer = tuple(_outer(places, place, name) for name in spec.groups[place.group].nested_in)
        out = action(out, place.position, outer, place.group, place.role or "out")
    # all sizes are as before, so the same reshape and the inverse transpose lead back
    out = jnp.reshape(out, split_shape)
    return jnp.reshape(jnp.transpose(out, [flat.index(i) for i in range(len(flat))]), value.shape)


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of a factor: its position among the split axes, and the leaf's axis it is on."""

    factor: Factor
    position: int
    axis: int
    role: Role | None

    @property
    def group(self) -> str:
        return self.factor.group or ""

    @property
    def name(self) -> str | None:
        return self.factor.group or self.factor.stack


def _brought_together(spec: PermSpec, factors: list[Factor]) -> list[list[int]]:
    """Positions of the factors, those that are parts of one product group in one run."""
    runs: dict[object, list[int]] = {}
    for position, factor in enumerate(factors):
        joint = factor.group is not None and spec.groups[factor.group].combined == "product"
        runs.setdefault(factor.group if joint else position, []).append(position)
    for run in runs.values():
        run.sort(key=lambda position: factors[position].part)
    return list(runs.values())


def _outer(places: list[_Place], inner: _Place, name: str) -> int:
    """Find the factor in which another is nested: on its own axis first, else the only one."""
    found = [place for place in places if place.name == name]
    same = [place for place in found if place.axis == inner.axis]
    # attention kernels carry heads on several axes; a unit belongs to the head beside it on its own axis
    chosen = same or found
    if len(chosen) != 1:
        raise ValueError(
            f"PermSpec: a leaf that carries {inner.group!r}, nested in {name!r}, must carry that exactly "
            f"once on the same axis or in the leaf; it stands {len(chosen)} times."
        )
    return chosen[0].position
