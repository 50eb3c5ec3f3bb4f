"""Similarities of two networks' weights that are kept up to date while B's permutations change.

A similarity is linear in B: when a neighbouring group is reordered, only the weights of the units
that moved have to be multiplied again. They are gathered on the host, where the permutations are
found, and multiplied on the device in blocks of one size, so that all groups of a size share one
small compiled program.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.unit_features import real_parts
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.axes import Axis
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params

BLOCK = 256
"""How many weights of every unit are multiplied at once: small blocks waste little when little moved."""

Elements = Mapping[str, np.ndarray]
"""Group name -> hard element `[*outer, n]`, on the host."""


class Place(NamedTuple):
    """Where a factor stands in a piece: its axis, and those of the factors it is nested in."""

    group: str
    axis: int
    outer: tuple[int, ...]


class Piece(NamedTuple):
    """A leaf, or a part of one, whose factors stand on axes of their own.

    Attributes:
        a: A's values.
        b: B's values.
        places: the factors that carry groups, outer ones before those nested in them.
    """

    a: np.ndarray
    b: np.ndarray
    places: tuple[Place, ...]

    def count(self, group: str) -> int:
        """How often the group stands in the piece."""
        return sum(place.group == group for place in self.places)


def take_apart(spec: PermSpec, params_a: Params, params_b: Params) -> list[Piece]:
    """Cut the leaves of two networks into pieces, complex ones as real and imaginary parts.

    Leaves without groups are left out.
    """
    parts = zip(cut_leaves(spec, params_a), cut_leaves(spec, params_b))
    return [Piece(a, b, places) for (a, places), (b, _) in parts]


def cut_leaves(spec: PermSpec, params: Params) -> list[tuple[np.ndarray, tuple[Place, ...]]]:
    """The pieces of one network, and the places in them."""
    spec, (params,) = real_parts(spec, [params])
    leaves = flatten_by_path(params)
    carrying = [leaf for leaf in spec.leaves if any(axis.role for axis in leaf.axes)]
    return [piece for leaf in carrying for piece in _cut(spec, leaf.axes, leaves[leaf.path])]


def _cut(spec: PermSpec, axes: tuple[Axis, ...], leaf: Array) -> list[tuple[np.ndarray, tuple[Place, ...]]]:
    found: dict[int, tuple[Array, list[Place]]] = {}

    def record(part: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        found.setdefault(id(part), (part, []))[1].append(Place(group, axis, outer_axes))
        return part

    transform_axes(spec, axes, wide(leaf), record)
    return [(np.asarray(part), tuple(places)) for part, places in found.values()]


def reorder(value: np.ndarray, places: Sequence[Place], elements: Elements) -> np.ndarray:
    """Permute a piece's values along some of its factors."""
    for group, axis, outer in places:
        element = elements[group]
        if not outer:
            value = np.take(value, element, axis)
            continue
        index = element.reshape(element.shape + (1,) * (value.ndim - element.ndim))
        value = np.take_along_axis(value, np.moveaxis(index, range(element.ndim), (*outer, axis)), axis)
    return value


def inner_product(pieces: Sequence[Piece], elements: Elements) -> float:
    """`<A, pi(B)>` over some pieces, in float64: what weight matching maximises."""
    parts = [(piece.a, reorder(piece.b, piece.places, elements)) for piece in pieces]
    return float(sum(np.multiply(a, b, dtype=np.float64).sum() for a, b in parts))


class Term:
    """What one piece contributes to a similarity."""

    def __init__(self, piece: Piece, own: Sequence[int]) -> None:
        """Choose whose units are compared.

        Args:
            piece: the piece.
            own: number of the place whose units are compared; or of two places, the second
                nested in the first, whose pairs of indices are. All other axes are summed over.
        """
        self._piece = piece
        self._outer = piece.places[own[0]].outer
        self._own = tuple(piece.places[k].axis for k in own)
        self._others = tuple(place for k, place in enumerate(piece.places) if k not in own)
        self._last: dict[str, np.ndarray] | None = None

    def change(self, elements: Elements) -> tuple[np.ndarray, np.ndarray] | None:
        """A's weights, and B's under these elements less those under the last ones.

        Returns:
            Two arrays `[*outer, n, weights]`, without the weights of units that have not
            moved; None if none has.
        """
        a, b, _ = self._piece
        new, last = {place.group: elements[place.group] for place in self._others}, self._last
        if last is not None and all(np.array_equal(new[group], last[group]) for group in new):
            return None
        self._last = new
        if last is None:
            return self._rows(a), self._rows(reorder(b, self._others, new))
        if len(self._others) != 1 or self._outer or self._others[0].outer:
            after, before = (reorder(b, self._others, each) for each in (new, last))
            return self._rows(a), self._rows(after - before)
        group, axis, _ = self._others[0]
        moved = np.flatnonzero(new[group] != last[group])
        after, before = (np.take(b, each[group][moved], axis) for each in (new, last))
        return self._rows(np.take(a, moved, axis)), self._rows(after - before)

    def _rows(self, value: np.ndarray) -> np.ndarray:
        front = (*self._outer, *self._own)
        lead = [value.shape[axis] for axis in self._outer]
        units = math.prod(value.shape[axis] for axis in self._own)
        rest = math.prod(size for axis, size in enumerate(value.shape) if axis not in front)
        return np.moveaxis(value, front, range(len(front))).reshape(*lead, units, rest)


class Similarity:
    """A sum of terms, brought up to date on demand.

    Attributes:
        value: `[*outer, n, n]`, float64; rows A's units, columns B's, each in its own order.
    """

    value: Float[np.ndarray, "*outer n n"]

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = terms
        self.value = np.zeros((1, 1))

    def refresh(self, elements: Elements) -> bool:
        """Compute `value` for B under these elements.

        Args:
            elements: of all groups; those whose units are compared are not read.

        Returns:
            Whether anything had to be computed: False if no neighbour has moved.
        """
        changes = [change for term in self._terms if (change := term.change(elements)) is not None]
        if changes:
            # weights of any size: their products must not over- or underflow on the device
            exponents = [_exponent(rows) for rows in zip(*changes)]
            e_a, e_b = exponents
            scaled = [(np.ldexp(a, -e_a), np.ldexp(b, -e_b)) for a, b in changes]
            self.value = self.value + np.ldexp(_products(scaled), e_a + e_b)
        return bool(changes)


def _exponent(rows: Sequence[np.ndarray]) -> int:
    """That of the power of two next above the largest size of any weight."""
    return int(np.frexp(max((float(np.abs(part).max(initial=0)) for part in rows), default=0.0))[1])


def _products(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """`sum_k a[..., i, k] b[..., j, k]` over all pairs of arrays, block by block."""
    lead = rows[0][0].shape[:-1]
    total = np.zeros((*lead, lead[-1]))
    blocks = np.zeros((2, *lead, BLOCK), rows[0][0].dtype)
    used = 0
    for pair in rows:
        start, stop = 0, pair[0].shape[-1]
        while start < stop:
            size = min(BLOCK - used, stop - start)
            for block, weights in zip(blocks, pair):
                block[..., used : used + size] = weights[..., start : start + size]
            start, used = start + size, used + size
            if used == BLOCK:
                total += np.asarray(_inner(blocks[0], blocks[1]))
                used = 0
    if used:
        blocks[..., used:] = 0
        total += np.asarray(_inner(blocks[0], blocks[1]))
    return total


@jax.jit
def _inner(a: Array, b: Array) -> Array:
    return jnp.einsum("...ik,...jk->...ij", a, b, precision=jax.lax.Precision.HIGHEST)
