"""Exact magnitude thresholds of task vectors, found on the host.

Of whole networks by counting digits of 16 bits, from the highest down: two passes for float32, without
an array as large as a network, where `numpy.partition` of all magnitudes would need one. Of single
leaves by `numpy.partition`.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from autofusion_jax.merging.method import Pieces
from autofusion_jax.merging.task_vectors.streaming import BLOCK, float_leaves, wide_dtype
from autofusion_jax.types import Params

THREADS = 2
"""How many networks are looked at side by side."""
DIGIT = 16
"""Bits that are counted in one pass."""


def nth_largest(values: np.ndarray, rank: int) -> np.floating:
    """The `rank`-th largest of non-negative values; reorders them.

    Partitioning is slow where most values are equal, which of task vectors only zeros are
    (layers that were frozen): they are left out.

    Args:
        values: one axis, no NaN.
        rank: 1 for the largest; the smallest value is taken where there are fewer, 0 if there are none.

    Example:
        >>> float(nth_largest(np.array([0.5, 0.0, 2.0, 2.0]), 3))
        0.5
    """
    nonzero, rank = np.count_nonzero(values), min(rank, values.size)
    if nonzero < rank or values.size == 0:
        return values.dtype.type(0)
    if 2 * nonzero < values.size:
        values = values[values != 0]
    place = values.size - rank
    values.partition(place)
    return values[place]


def magnitudes(base: Params, params: Params) -> np.ndarray:
    """`|params - base|` of all leaves that are floats, one after another, in one array.

    Example:
        >>> magnitudes({"step": 1, "w": jnp.array([1.0, 2.0])}, {"step": 3, "w": jnp.array([1.5, 0.0])})
        array([0.5, 2. ], dtype=float32)
    """
    origins, values = float_leaves(base), float_leaves(params)
    flat, start = np.empty(sum(origin.size for origin in origins), wide_dtype(origins)), 0
    for origin, value in zip(origins, values):
        np.subtract(value, origin, out=flat[start : start + origin.size], dtype=flat.dtype)
        start += origin.size
    return np.abs(flat, out=flat)


def leaf_thresholds(base: Params, models: Sequence[Params], rank_of: Callable[[int], int]) -> Params:
    """For every leaf the magnitude of rank `rank_of(number of entries)` in each task vector: `[models]`.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        rank_of: takes the number of entries, gives the rank; 1 for the largest.

    Example:
        >>> base, params = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, -4.0])}
        >>> leaf_thresholds(base, [params], lambda num: num // 2)
        {'w': array([4.], dtype=float32)}
    """

    def threshold(origin: Params, value: Params) -> np.floating:
        values = magnitudes(origin, value)
        return nth_largest(values, rank_of(values.size))

    with ThreadPoolExecutor(THREADS) as pool:
        each = list(pool.map(lambda params: jax.tree.map(threshold, base, params), models))
    return jax.tree.map(lambda *found: np.array(found), *each)


def global_thresholds(pieces: Pieces, rank_of: Callable[[int], int]) -> Float[np.ndarray, " models"]:
    """For every network the magnitude of rank `rank_of(number of entries)` in its whole task vector.

    Args:
        pieces: goes over base and networks.
        rank_of: takes the number of entries, gives the rank; 1 for the largest.

    Example:
        >>> from autofusion_jax.merging.method import MergeTask
        >>> base, params = {"v": jnp.zeros(2), "w": jnp.zeros(2)}, {"v": jnp.ones(2), "w": -3 * jnp.ones(2)}
        >>> task = MergeTask((params,), base=base)
        >>> global_thresholds(lambda: [task], lambda num: num // 2)
        array([3.], dtype=float32)
    """
    wide = np.dtype(jnp.result_type(float))
    prefixes = ranks = None
    for shift in range(8 * wide.itemsize - DIGIT, -1, -DIGIT):
        counts = _count_digits(pieces, prefixes, shift, wide)
        if prefixes is None or ranks is None:
            prefixes, sizes = np.zeros(len(counts), np.uint64), counts.sum(1)
            ranks = np.minimum([rank_of(int(size)) for size in sizes], sizes)
        from_top = counts[:, ::-1].cumsum(1)
        place = (from_top < ranks[:, None]).sum(1)
        ranks = ranks - np.take_along_axis(from_top - counts[:, ::-1], place[:, None], 1)[:, 0]
        prefixes = (prefixes << np.uint64(DIGIT)) | (2**DIGIT - 1 - place).astype(np.uint64)
    assert prefixes is not None
    return prefixes.astype(f"u{wide.itemsize}").view(wide)


def _count_digits(
    pieces: Pieces, prefixes: np.ndarray | None, shift: int, wide: np.dtype
) -> Int[np.ndarray, "models digits"]:
    """How often every value of the digit at `shift` occurs among magnitudes that begin with `prefixes`."""
    counts = None
    with ThreadPoolExecutor(THREADS) as pool:
        for task in pieces():
            if counts is None:
                counts = np.zeros((len(task.models), 2**DIGIT), np.int64)
            starts = prefixes if prefixes is not None else [None] * len(counts)
            count = functools.partial(
                _count_leaves, float_leaves(task.require_base()), shift=shift, wide=wide
            )
            list(pool.map(count, map(float_leaves, task.models), starts, counts))
    assert counts is not None
    return counts


def _count_leaves(
    origins: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    prefix: np.unsignedinteger | None,
    counts: np.ndarray,
    *,
    shift: int,
    wide: np.dtype,
) -> None:
    """Add to the counts of one network, a block at a time: it stays in the cache."""
    for origin, value in zip(origins, values):
        for start in range(0, origin.size, BLOCK):
            piece = slice(start, start + BLOCK)
            delta = np.subtract(value[piece], origin[piece], dtype=wide)
            digits = np.abs(delta, out=delta).view(f"u{wide.itemsize}") >> shift
            if prefix is not None:
                digits = digits[digits >> DIGIT == prefix] & (2**DIGIT - 1)
            counts += np.bincount(digits, minlength=2**DIGIT)
