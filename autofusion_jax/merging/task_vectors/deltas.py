"""Task vectors: what networks changed of their base, merged and added to it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Inexact

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.precision import rounded, wide_inexact, widened
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params, Scalar

ROOM = 2.0**-16
"""By how much entries near the largest float are made smaller while they are merged."""


def deltas_of(
    origin: Inexact[Array, "*shape"], values: Sequence[Inexact[Array, "*shape"]], *, by_leaf: bool = False
) -> tuple[Float[Array, "*#shape"], list[Array]]:
    """The task vectors `values[k] - origin` of a leaf, times a power of two, and that.

    It is 1 but for entries near the largest float: their differences are larger than any float, and so are
    sums over networks, where what is added to the base is not. Powers of two round nothing.

    Args:
        origin: a leaf of the base, in float32 or wider.
        values: those of the networks.
        by_leaf: one power for the whole leaf; else one for every entry.

    Example:
        >>> room, (delta,) = deltas_of(jnp.array([1.0, 3e38]), [jnp.array([2.0, -3e38])])
        >>> room.tolist() == [1.0, ROOM], delta.tolist() == [1.0, -2 * ROOM * jnp.float32(3e38)]
        (True, True)
    """
    sizes = [jnp.abs(value) for value in (origin, *values)]
    limit = float(jnp.finfo(sizes[0].dtype).max) * ROOM
    large = functools.reduce(jnp.logical_or, [size > limit for size in sizes])
    room = jnp.where(large.any() if by_leaf else large, ROOM, 1).astype(sizes[0].dtype)
    return room, [value * room - origin * room for value in values]


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
        room, deltas = deltas_of(origin, tuned)
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
        if not is_float(origin):
            return origin
        return rounded(fn(*map(widened, (origin, *values))), wide_inexact(jnp.result_type(origin)))

    return jax.tree.map(leaf, base, *trees)


@jax.jit
def add_changes(base: Params, changes: Params, room: Scalar = 1.0) -> Params:
    """`base + changes / room`, leaf by leaf, in float32 or wider; the result is in the base's dtypes.

    Args:
        base: parameters.
        changes: of the same structure.
        room: the scale of the changes; see `deltas_of`.

    Example:
        >>> add_changes({"step": 3, "w": jnp.ones(2)}, {"step": 3, "w": jnp.array([1.0, 2.0])})["w"].tolist()
        [2.0, 3.0]
    """
    return merge_leaves(lambda origin, change: (origin * room + change) / room, [base, changes])
