"""Task vectors: what networks changed of their base, merged and added to it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.precision import rounded, wide_inexact, widened
from autofusion_jax.types import Params

ROOM = 2.0**-16
"""By how much entries near the largest float are made smaller while they are merged."""


def headroom(*values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A power of two for every entry, by which it is merged at a smaller scale: 1 for all ordinary ones.

    The difference of two entries near the largest float is larger than any float, and so are sums over
    networks, where what is added to the base is not. Powers of two round nothing.

    Example:
        >>> headroom(jnp.array([1.0, 3e38]), jnp.array([2.0, 0.0])).tolist() == [1.0, ROOM]
        True
    """
    dtype = values[0].dtype
    limit = float(jnp.finfo(dtype).max) * ROOM
    large = functools.reduce(jnp.logical_or, [jnp.abs(value) > limit for value in values])
    return jnp.where(large, ROOM, 1).astype(dtype)


def add_merged(fn: Callable[..., Array], base: Params, models: Sequence[Params], *more: Params) -> Params:
    """`base + fn(deltas, *more)`, entry by entry, `deltas = params - base` for every network.

    Args:
        fn: takes the task vectors of a leaf, in float32 or wider; twice as large ones give twice its value.
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        more: what else there is for every leaf.

    Example:
        >>> base, models = {"w": jnp.array([3e38])}, [{"w": jnp.array([-3e38])}, {"w": jnp.array([3e38])}]
        >>> add_merged(lambda deltas: sum(deltas) / 2, base, models)["w"].tolist()
        [0.0]
    """

    def leaf(origin: Array, *values: Array) -> Array:
        tuned, others = values[: len(models)], values[len(models) :]
        room = headroom(origin, *tuned)
        deltas = [value * room - origin * room for value in tuned]
        return (origin * room + fn(deltas, *others)) / room

    return merge_leaves(leaf, [base, *models, *more])


def map_wide(fn: Callable[..., Array], base: Params, *trees: Params) -> Params:
    """Apply a function to leaves as `merge_leaves` does, but do not round to the base's dtypes.

    Example:
        >>> base, params = {"step": 3, "w": jnp.ones(1, jnp.bfloat16)}, {"step": 4, "w": jnp.array([1.001])}
        >>> map_wide(lambda origin, value: value - origin, base, params)["w"].dtype
        dtype('float32')
    """

    def leaf(origin: Any, *values: Any) -> Any:
        dtype = jnp.result_type(origin)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return origin
        return rounded(fn(*map(widened, (origin, *values))), wide_inexact(dtype))

    return jax.tree.map(leaf, base, *trees)


@jax.jit
def add_changes(base: Params, changes: Params, room: float | Float[Array, ""] = 1.0) -> Params:
    """`base + changes / room`, leaf by leaf, in float32 or wider; the result is in the base's dtypes.

    Args:
        base: parameters.
        changes: of the same structure.
        room: the scale of the changes; see `headroom`.

    Example:
        >>> add_changes({"step": 3, "w": jnp.ones(2)}, {"step": 3, "w": jnp.array([1.0, 2.0])})["w"].tolist()
        [2.0, 3.0]
    """
    return merge_leaves(lambda origin, change: (origin * room + change) / room, [base, changes])
