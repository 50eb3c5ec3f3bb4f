"""Task vectors block by block: all networks' entries of one block at a time, never whole task vectors.

Blocks have one size whatever the leaves, so that what works on them is compiled once.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.types import Params

BLOCK = 1 << 18
"""How many entries are worked on at once: few enough to stay in the cache with all networks'."""


def float_leaves(params: Params) -> list[np.ndarray]:
    """The leaves that are floats, each on the host with its axes as one."""
    return [
        np.asarray(leaf, jnp.result_type(leaf)).reshape(-1)
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]


def wide_dtype(leaves: Sequence[np.ndarray]) -> np.dtype:
    """The dtype in which task vectors are computed: float32, or wider if a leaf is."""
    return np.dtype(jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves)))


def trimmed_blocks(
    base: Params, models: Sequence[Params], thresholds: Params, size: int
) -> Iterator[np.ndarray]:
    """Cut the trimmed task vectors of all networks into blocks.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        thresholds: for every leaf `[models]` magnitudes; smaller entries become zero.
        size: entries of a network in a block.

    Yields:
        Entries `[models, size]`, filled up with zeros at the end. The next block is written over
        them: be done with what works on one before asking for the next.

    Example:
        >>> base = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
        >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([1.0])}
        >>> thresholds = {"a": np.array([2.0]), "b": np.array([1.0])}
        >>> [block.tolist() for block in trimmed_blocks(base, [params], thresholds, 2)]
        [[[0.0, 2.0]], [[1.0, 0.0]]]
    """
    origins = float_leaves(base)
    networks = list(zip(*map(float_leaves, models)))
    kept = [t for t, leaf in zip(jax.tree.leaves(thresholds), jax.tree.leaves(base)) if _is_float(leaf)]
    block = np.zeros((len(models), size), wide_dtype(origins))
    filled = 0
    for origin, values, least in zip(origins, networks, kept):
        done = 0
        while done < origin.size:
            take = min(size - filled, origin.size - done)
            piece = slice(done, done + take)
            for row, value, threshold in zip(block[:, filled : filled + take], values, least):
                np.subtract(value[piece], origin[piece], out=row, dtype=block.dtype)
                np.multiply(row, np.abs(row) >= threshold, out=row)
            done, filled = done + take, filled + take
            if filled == size:
                yield block
                filled = 0
    if filled:
        block[:, filled:] = 0
        yield block


def add_flat(base: Params, flat: np.ndarray) -> Params:
    """Add entries, all leaves' after one another, to the leaves that are floats; overwrites them.

    Example:
        >>> add_flat({"step": 3, "v": jnp.ones(2), "w": jnp.ones((1, 1))}, np.array([1.0, 2.0, 3.0]))
        {'step': 3, 'v': Array([2., 3.], dtype=float32), 'w': Array([[4.]], dtype=float32)}
    """
    start = 0

    def leaf(origin):
        nonlocal start
        if not _is_float(origin):
            return origin
        origin = jnp.asarray(origin)
        part = flat[start : start + origin.size]
        start += origin.size
        np.add(np.asarray(origin).reshape(-1), part, out=part, dtype=flat.dtype)
        return jax.device_put(part.astype(origin.dtype).reshape(origin.shape))

    return jax.tree.map(leaf, base)


def _is_float(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
