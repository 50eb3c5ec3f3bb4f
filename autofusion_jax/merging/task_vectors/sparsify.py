"""Methods that prune task vectors and leave it to another method to merge them."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import ROOM, add_changes, map_wide
from autofusion_jax.merging.task_vectors.trim import float_leaves
from autofusion_jax.precision import wide_dtype
from autofusion_jax.types import Params
from autofusion_jax.validation import require


def merge_method(caller: str, merge: str | Method, known: Mapping[str, Method]) -> Method:
    """The method that merges pruned task vectors.

    Raises:
        ValueError: the method moves units.
    """
    if isinstance(merge, str):
        return known[merge]
    require(
        merge.assumes_aligned, caller, "merge",
        'a method for task vectors, such as "ties" or methods.ties(...)', repr(merge.name),
    )  # fmt: skip
    return merge


def merge_pruned(
    method: Method, task: MergeTask, key: Array, prune: Callable[[int, Params, Params], Params]
) -> MergeResult:
    """Merge pruned task vectors: as networks with a base of zeros, to which the real one is added.

    Args:
        method: merges networks with a base.
        task: what is merged.
        key: what `method` may draw with.
        prune: makes a task vector of a network's number, the base and the network.
    """
    base, room = task.require_base(), 1.0
    together = [base, *task.models]
    if any(_is_large(leaf) for params in together for leaf in float_leaves(params)):
        # their differences would be larger than any float; 2^-16 of them is not, and rounds nothing
        together = [map_wide(lambda value: value * ROOM, params) for params in together]
        room = ROOM
    origin, *models = together
    deltas = tuple(prune(number, origin, params) for number, params in enumerate(models))
    zeros = merge_leaves(jnp.zeros_like, deltas[:1])
    result = method.run(dataclasses.replace(task, base=zeros, models=deltas), key)
    return dataclasses.replace(result, params=add_changes(base, result.params, room))


def _is_large(values: np.ndarray) -> bool:
    """Whether a magnitude is so near the largest float32 (or float64) that sums may overflow."""
    parts = values.view(wide_dtype(values.dtype)) if np.iscomplexobj(values) else values
    limit = float(jnp.finfo(wide_dtype(parts.dtype)).max) * ROOM
    return parts.size > 0 and max(float(parts.max()), -float(parts.min())) > limit
