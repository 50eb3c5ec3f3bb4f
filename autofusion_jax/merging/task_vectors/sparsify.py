"""Methods that prune task vectors and leave it to another method to merge them."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import add_changes
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


def merge_deltas(method: Method, task: MergeTask, key: Array, deltas: Sequence[Params]) -> MergeResult:
    """Merge given task vectors: as networks with a base of zeros, to which the real one is added.

    Args:
        method: merges networks with a base.
        task: what was merged.
        key: what `method` may draw with.
        deltas: a task vector for each network.
    """
    zeros = merge_leaves(jnp.zeros_like, deltas[:1])
    result = method.run(dataclasses.replace(task, base=zeros, models=tuple(deltas)), key)
    return dataclasses.replace(result, params=add_changes(task.require_base(), result.params))
