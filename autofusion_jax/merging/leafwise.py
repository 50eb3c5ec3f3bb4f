"""Merging leaf by leaf, for networks whose units are in one order."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import rounded, widened
from autofusion_jax.symmetry.transform import identity_perms
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params


def merge_leaves(fn: Callable[..., Array], models: Sequence[Params]) -> Params:
    """Apply a function to the corresponding leaves of all networks, in float32 or wider.

    Args:
        fn: takes one leaf of each network, `widened`; returns the merged leaf in the same shape. It is
            rounded once, to the first one's dtype.
        models: parameters of one structure.

    Returns:
        The merged parameters in the first one's dtypes; leaves that are not floats are the first one's.

    Example:
        >>> models = [{"step": jnp.array(n), "w": jnp.array([n, 4.0 / n])} for n in (1, 4)]
        >>> merge_leaves(jnp.maximum, models)
        {'step': Array(1, dtype=int32, weak_type=True), 'w': Array([4., 4.], dtype=float32)}
    """

    def leaf(*values: Any) -> Any:
        if not is_float(values[0]):
            return values[0]
        return rounded(fn(*map(widened, values)), jnp.result_type(values[0]))

    return jax.tree.map(leaf, *models)


def shared(values: Sequence[Float[Array, "*shape"]]) -> Bool[Array, "*shape"]:
    """Where all networks have one number."""
    same = [value == values[0] for value in values[1:]]
    return functools.reduce(jnp.logical_and, same, jnp.ones(jnp.shape(values[0]), bool))


@jax.custom_jvp
def kept(where: Bool[Array, "..."], value: Float[Array, "*shape"], merged: Float[Array, "*shape"]) -> Array:
    """`value` in place of `merged` where the two are one number but for rounding; derivatives are `merged`'s.

    1/3 + 1/3 + 1/3 of a number is not that number to the last bit: what all networks share stays as it is
    by this, so that layers that were frozen come back as they were.

    Example:
        >>> kept(jnp.array([True, False]), jnp.array([1.0, 2.0]), jnp.array([0.9999999, 5.0])).tolist()
        [1.0, 5.0]
    """
    return jnp.where(where, value, merged)


@kept.defjvp
def _kept_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    return kept(*primals), tangents[2]


def aligned_result(
    task: MergeTask, params: Params, *, weights: Sequence[float] | None = None, **more: Any
) -> MergeResult:
    """The result of a method that leaves all units in the order in which they are.

    Args:
        task: what was merged.
        params: the merged parameters.
        weights: how much each network counts; all the same if left out.
        more: other fields of the result.
    """
    num = len(task.models)
    perms = {} if task.perm_spec is None else identity_perms(task.perm_spec)
    weights = tuple(weights or [1 / num] * num)
    return MergeResult(params, task.apply_fn, perms, (perms,) * num, weights, **more)
