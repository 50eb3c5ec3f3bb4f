"""Trimming of task vectors: entries below a magnitude become zero, which is exact and found on the host."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from autofusion_jax.precision import is_complex, wide_dtype, widened
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params

THREADS = 2
"""How many networks are looked at side by side."""


def trim(
    delta: Float[Array, "*shape"], least: float | Float[Array, "*#shape"], *, parts: bool = False
) -> Float[Array, "*shape"]:
    """The entries of magnitude `least` or more; zero for all others.

    Args:
        delta: a task vector.
        least: the smallest magnitude that is kept.
        parts: the last axis has real and imaginary parts; see `magnitude`.

    Example:
        >>> trim(jnp.array([1.0, -3.0, 2.0]), 2.0).tolist()
        [0.0, -3.0, 2.0]
        >>> trim(jnp.array([[1.0, 3.0], [1.0, 0.0]]), 2.0, parts=True).tolist()
        [[1.0, 3.0], [0.0, 0.0]]
    """
    return jnp.where(magnitude(delta, parts=parts) >= least, delta, 0)


def magnitude(delta: Float[Array, "*shape"], *, parts: bool) -> Float[Array, "*#shape"]:
    """`|delta|`; of a complex number, whose two parts are along the last axis, that of the larger one.

    A modulus is rounded, on the host otherwise than in a program: it may be on either side of a threshold.
    """
    return jnp.max(jnp.abs(delta), -1, keepdims=True) if parts else jnp.abs(delta)


def network_thresholds(base: Params, models: Sequence[Params], rank_of: Callable[[int], int]) -> Params:
    """For every leaf `[models]`: the magnitude of rank `rank_of(number of entries)` in the whole task vector.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        rank_of: takes the number of entries, gives the rank; 1 for the largest.

    Example:
        >>> base, params = {"v": jnp.zeros(2), "w": jnp.zeros(2)}, {"v": jnp.ones(2), "w": -3 * jnp.ones(2)}
        >>> network_thresholds(base, [params], lambda num: num // 2)
        {'v': array([3.], dtype=float32), 'w': array([3.], dtype=float32)}
    """
    stacked = _stack(_map(lambda params: _threshold(base, params, rank_of), models))
    return jax.tree.map(lambda _: stacked, base)


def leaf_thresholds(base: Params, models: Sequence[Params], rank_of: Callable[[int], int]) -> Params:
    """The same for every leaf by itself: `[models]`.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        rank_of: takes the number of entries, gives the rank; 1 for the largest.

    Example:
        >>> base, params = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, -4.0])}
        >>> leaf_thresholds(base, [params], lambda num: num // 2)
        {'w': array([4.], dtype=float32)}
    """

    def of_leaves(params: Params) -> Params:
        return jax.tree.map(lambda origin, value: _threshold(origin, value, rank_of), base, params)

    return jax.tree.map(lambda *found: _stack(found), *_map(of_leaves, models))


def _traced(*trees: Params) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def _map(fn: Callable[[Params], Any], models: Sequence[Params]) -> list[Any]:
    if _traced(*models):  # jit traces in one thread
        return [fn(params) for params in models]
    wide = jnp.result_type(float) == np.float64  # whether 64 bits are allowed is told to one thread

    def run(params: Params) -> Any:
        with jax.enable_x64(wide):
            return fn(params)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, models))


def _threshold(base: Params, params: Params, rank_of: Callable[[int], int]) -> np.floating | Array:
    if not _traced(base, params):
        values = magnitudes(base, params)
        return nth_largest(values, rank_of(values.size))
    # Under jit by a sort: a hundred times slower on CPU, where numpy selects.
    deltas = [
        magnitude(widened(value) - widened(origin), parts=is_complex(origin)).reshape(-1)
        for origin, value in zip(jax.tree.leaves(base), jax.tree.leaves(params))
        if is_float(origin)
    ]
    values = jnp.sort(jnp.concatenate(deltas)) if deltas else jnp.zeros(0)
    if values.size == 0:
        return jnp.zeros((), values.dtype)
    place = values.size - min(rank_of(values.size), values.size)
    least = jax.lax.index_in_dim(values, place, keepdims=False)  # static: a place may be past 32 bits
    return jnp.minimum(least, jnp.finfo(least.dtype).max)


def _stack(found: Sequence[np.floating | Array]) -> np.ndarray | Array:
    on_host = all(isinstance(value, np.floating) for value in found)
    return np.array(found) if on_host else jnp.stack([jnp.asarray(value) for value in found])


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
    """`|params - base|` of all leaves that are floats, one after another, in one array; see `magnitude`.

    Example:
        >>> magnitudes({"step": 1, "w": jnp.array([1.0, 2.0])}, {"step": 3, "w": jnp.array([1.5, 0.0])})
        array([0.5, 2. ], dtype=float32)
    """
    origins, values = float_leaves(base), float_leaves(params)
    widest = wide_dtype(*(origin.dtype for origin in origins))
    flat, start = np.empty(sum(origin.size for origin in origins), widest), 0
    for origin, value in zip(origins, values):
        flat[start : start + origin.size] = distance(value, origin)
        start += origin.size
    return flat


def distance(value: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """`|value - origin|` as programs find it: in the dtype that is wide for the leaf, and always finite.

    A difference in a wider one is another number, and would be compared with those of the programs.

    Example:
        >>> distance(np.float32([3e38]), np.float32([-3e38])) == np.finfo(np.float32).max
        array([ True])
    """
    parts = np.iscomplexobj(value)
    if parts:
        value, origin = (array.view(wide_dtype(array.dtype)) for array in (value, origin))
    with np.errstate(over="ignore"):
        delta = np.subtract(value, origin, dtype=wide_dtype(value.dtype))
    np.minimum(np.abs(delta, out=delta), np.finfo(delta.dtype).max, out=delta)
    return delta.reshape(-1, 2).max(1) if parts else delta


def float_leaves(params: Params) -> list[np.ndarray]:
    """The leaves that are floats or complex numbers, each on the host with its axes as one."""
    return [
        np.asarray(leaf, jnp.result_type(leaf)).reshape(-1)
        for leaf in jax.tree.leaves(params)
        if is_float(leaf)
    ]
