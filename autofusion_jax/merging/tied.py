"""Tied leaves that are stored more than once, such as an embedding and the head that reads it."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, is_float
from autofusion_jax.types import Params


class Tie(NamedTuple):
    """A leaf that repeats another one in every network.

    Attributes:
        path: its path.
        first: the path of the one that it repeats.
        transposed: whether it is that one transposed.
    """

    path: str
    first: str
    transposed: bool


def find_ties(networks: Sequence[Params], spec: PermSpec | None) -> list[Tie]:
    """Find leaves of floats that hold the same numbers in every network.

    Constant leaves (new biases and scales) are left out: they are equal without being tied. So are leaves
    whose axes carry other groups of the spec: units of different layers are reordered each in its own way.
    What is repeated is the leaf that comes first in the spec, so in the forward pass, whatever the names are:
    what a method fits as the head would not do as the embedding.

    Args:
        networks: parameters of one structure.
        spec: their permutation spec, or None.

    Example:
        >>> network = {"embedding": np.eye(3)[:2], "head": np.eye(3)[:2].T, "bias": np.zeros(2)}
        >>> find_ties([network, network], None)
        [Tie(path='head', first='embedding', transposed=True)]
    """
    flat = [flatten_by_path(params) for params in networks]
    axes = {} if spec is None else {leaf.path: [axis.blocks for axis in leaf.axes] for leaf in spec.leaves}
    # leaves of one size and dtype that begin and end with the same numbers, whichever way they lie
    alike: dict[Any, list[str]] = {}
    for path in axes or flat[0]:
        leaf = flat[0][path]
        if is_float(leaf) and np.size(leaf) > 1:
            values = np.asarray(leaf)
            ends = (values[(0,) * values.ndim].tobytes(), values[(-1,) * values.ndim].tobytes())
            alike.setdefault((values.dtype, values.size, *ends), []).append(path)
    ties: dict[str, Tie] = {}
    for first, path in (pair for paths in alike.values() for pair in itertools.combinations(paths, 2)):
        if path in ties or first in ties:
            continue
        for transposed in (False, True):
            order = slice(None, None, -1 if transposed else 1)
            if axes and axes[first] != axes[path][order]:
                continue
            if all(_same(leaves[first], leaves[path], transposed) for leaves in flat):
                ties[path] = Tie(path, first, transposed)
                break
    return list(ties.values())


def tied(params: Params, ties: Sequence[Tie]) -> dict[str, Any]:
    """The leaves that repeat others, each made from the one that it repeats."""
    leaves = flatten_by_path(params) if ties else {}
    return {tie.path: leaves[tie.first].T if tie.transposed else leaves[tie.first] for tie in ties}


def _same(first: Any, other: Any, transposed: bool) -> bool:
    first, other = np.asarray(first), np.asarray(other)
    if transposed and (first.ndim != 2 or not min(first.shape) > 1):
        return False
    other = other.T if transposed else other
    return (
        first.shape == other.shape and np.array_equal(first, other) and bool((first != first.flat[0]).any())
    )
