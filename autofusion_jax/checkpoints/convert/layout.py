"""Layouts of a leaf's axes in a foreign tensor, as patterns like `"i h d -> (h d) i"`."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A pattern with sizes, ours on its left, theirs on its right. Both ways are exact: numbers only move.

    Names stand for axes, those in parentheses for one axis that is their product (the last one is
    the fastest), and `1` for an axis of size 1.

    Attributes:
        ours: names of each axis of our leaf.
        theirs: names of each axis of the foreign tensor.
        sizes: size by name.

    Example:
        >>> layout = lay_out("i h d -> (h d) i", (6, 2, 4))
        >>> layout.shape
        (8, 6)
        >>> leaf = np.arange(48).reshape(6, 2, 4)
        >>> bool((layout.to_ours(layout.to_theirs(leaf)) == leaf).all())
        True
    """

    ours: tuple[tuple[str, ...], ...]
    theirs: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the foreign tensor."""
        return self._shape(self.theirs)

    def to_theirs(self, leaf: np.ndarray) -> np.ndarray:
        """The foreign tensor."""
        return self._move(leaf, self.ours, self.theirs)

    def to_ours(self, tensor: np.ndarray) -> np.ndarray:
        """Our leaf."""
        return self._move(tensor, self.theirs, self.ours)

    def _shape(self, axes: Sequence[Sequence[str]]) -> tuple[int, ...]:
        return tuple(math.prod(self.sizes[name] for name in axis) for axis in axes)

    def _move(
        self, values: np.ndarray, source: Sequence[Sequence[str]], target: Sequence[Sequence[str]]
    ) -> np.ndarray:
        names = [name for axis in source for name in axis]
        order = [names.index(name) for axis in target for name in axis]
        parts = values.reshape([self.sizes[name] for name in names])
        return parts.transpose(order).reshape(self._shape(target))


def lay_out(pattern: str, shape: Sequence[int], sizes: Mapping[str, int] | None = None) -> Layout:
    """Fit a pattern to the shape of our leaf.

    Args:
        pattern: `"ours -> theirs"`.
        shape: shape of our leaf.
        sizes: of all but one of the names in each pair of parentheses on the left.
    """
    ours, theirs = _parse(pattern)
    known = dict(sizes or {})
    for axis, size in zip(ours, shape, strict=True):
        free = [name for name in axis if name not in known]
        if free:
            known[free[0]] = size // math.prod(known[name] for name in axis if name in known)
    return Layout(ours, theirs, known)


@functools.cache
def _parse(pattern: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    sides = (re.findall(r"\(([^)]*)\)|(\w+)", side) for side in pattern.split("->"))
    return tuple(
        tuple(() if single == "1" else tuple((group or single).split()) for group, single in side)
        for side in sides
    )
