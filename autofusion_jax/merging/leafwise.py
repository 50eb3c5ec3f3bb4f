"""Merging leaf by leaf, for networks whose units are in one order."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

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

    def leaf(*values: Array) -> Array:
        if not is_float(values[0]):
            return values[0]
        return rounded(fn(*map(widened, values)), jnp.result_type(values[0]))

    return jax.tree.map(leaf, *models)


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
