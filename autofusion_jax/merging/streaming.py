"""Streaming: merging networks part by part, with what a method must know of whole ones found before.

A method whose result depends on the same entry or the same leaf of each network (`Method.granularity`) runs
on a part as on a network of one leaf. TIES is the one other that can be streamed: given its thresholds,
which passes over the parts find, it goes entry by entry.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.ties import balance, majority, num_kept, trim_elect_merge
from autofusion_jax.merging.task_vectors.trim import THREADS, distance, float_leaves
from autofusion_jax.merging.weights import factors_for

BLOCK = 1 << 18
"""How many entries are worked on at once: few enough to stay in the cache with all networks'."""
DIGIT = 16
"""Bits that are counted in one pass."""

Parts = Callable[[], Iterable[MergeTask]]
"""Goes over networks, part of their entries at a time, every entry once, as often as it is called."""


def can_stream(method: Method) -> bool:
    """Whether a method can merge networks part by part."""
    return method.granularity != "network" or method.name in PASSES


def streamed(method: Method, parts: Parts) -> Method:
    """The method with all that it must know of whole networks bound: of granularity `"entry"` or `"leaf"`."""
    return method if method.granularity != "network" else PASSES[method.name](method, parts)


def ties_with_thresholds(method: Method, parts: Parts) -> Method:
    """TIES for one part: its thresholds, and the sign of most sums, are those of the whole networks."""
    options = method.options
    rank_of = functools.partial(num_kept, density=options["density"], variant=options["variant"])
    least = global_thresholds(parts, rank_of)

    def given(task: MergeTask) -> tuple:
        factors = jnp.asarray(factors_for("ties", options["weights"], len(task.models)))
        return task.require_base(), task.models, {"part": least}, factors

    tie = 0.0
    if options["variant"] == "fusionbench":
        counts = (np.asarray(balance(*given(task)), np.int64) for task in parts())
        tie = majority(sum(counts, np.zeros(2, np.int64)))

    def run(task: MergeTask, key: Array) -> MergeResult:
        params = trim_elect_merge(*given(task), options["scale"], tie, merge=options["merge"])
        return aligned_result(task, params)

    return dataclasses.replace(method, run=run, granularity="entry")


PASSES: dict[str, Callable[[Method, Parts], Method]] = {"ties": ties_with_thresholds}
"""Methods that need a few numbers of whole networks, and what finds them."""


def global_thresholds(parts: Parts, rank_of: Callable[[int], int]) -> Float[np.ndarray, " models"]:
    """For every network the magnitude of rank `rank_of(number of entries)` in its whole task vector.

    Args:
        parts: goes over base and networks.
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
        counts = _count_digits(parts, prefixes, shift, wide)
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
    parts: Parts, prefixes: np.ndarray | None, shift: int, wide: np.dtype
) -> Int[np.ndarray, "models digits"]:
    """How often every value of the digit at `shift` occurs among magnitudes that begin with `prefixes`."""
    counts = None
    with ThreadPoolExecutor(THREADS) as pool:
        for task in parts():
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
            found = distance(value[piece], origin[piece]).astype(wide, copy=False)
            digits = found.view(f"u{wide.itemsize}") >> shift
            if prefix is not None:
                digits = digits[digits >> DIGIT == prefix] & (2**DIGIT - 1)
            counts += np.bincount(digits, minlength=2**DIGIT)
