"""SCE: select what the networks differ in, calculate weights, erase minority signs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.arguments import PositiveShare
from autofusion_jax.merging.leafwise import aligned_result, merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import delta_of
from autofusion_jax.merging.task_vectors.sign_consensus import elect, merge_agreeing
from autofusion_jax.merging.task_vectors.trim import nth_largest
from autofusion_jax.types import Params


@factory
def sce(*, density: PositiveShare = 0.1) -> Method:
    """Add a mean of the task vectors' entries that differ most, weighted by leaf: select, calculate, erase.

    For every leaf by itself:

    1. Select: keep the entries in which `var_k delta_k` is largest; all others become zero.
    2. Calculate: a weight for each network, `w_k = sum delta_k^2 / sum_j sum delta_j^2`.
    3. Erase: entries of another sign than `sum_k delta_k` (positive if zero) do not count; the rest
       is added as `sum_k w_k delta_k / sum_k w_k`.

    Args:
        density: share kept of the entries in which the networks differ at all, in (0, 1] (tau in the
            paper, 10 %; all in mergekit).

    Returns:
        A method for any number of networks; needs `base`. `calculate_and_erase` is its formula for
        selected entries as a pure function.

    Raises:
        ValueError: density is out of its range.

    References:
        Wan, Zhong, Yang, Chen, Quan: FuseChat: knowledge fusion of chat models, 2024, section 3.3;
        the authors' code in mergekit.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        base = task.require_base()
        variances = jax.tree.map(_variance, base, *task.models)
        selected = jax.tree.map(lambda variance: _largest(variance, density), variances)
        return aligned_result(task, calculate_and_erase(base, task.models, selected))

    return Method(
        "sce", run, uses_key=False, max_models=None, assumes_aligned=True, granularity="leaf", needs_base=True
    )


def calculate_and_erase(base: Params, models: Sequence[Params], selected: Params) -> Params:
    """Steps 2 and 3 of `sce`; every leaf is one program, for those alike the same.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        selected: for every leaf which entries are kept, True or False.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([3.0, 1.5])}]
        >>> calculate_and_erase(base, models, {"w": jnp.array([True, False])})["w"]
        Array([2.8, 0. ], dtype=float32)
    """

    return merge_leaves(_merge_leaf, [base, selected, *models])


@jax.jit
def _merge_leaf(origin: Array, kept: Array, *values: Array) -> Array:
    deltas = [jnp.where(kept, delta_of(value, origin), 0) for value in values]
    squares = jnp.stack([jnp.square(delta).sum() for delta in deltas])
    total = squares.sum()
    weights = jnp.where(total == 0, 1 / len(values), squares / jnp.where(total == 0, 1, total))
    return origin + merge_agreeing(
        jnp.stack(deltas), weights, elect(sum(deltas, jnp.zeros_like(deltas[0])), 1.0)
    )


@jax.jit
def _variance(origin: Array, *values: Array) -> Array:
    deltas = [delta_of(value, origin) for value in values]
    zero = jnp.zeros_like(deltas[0])
    mean = sum(deltas, zero) / len(deltas)
    return sum((jnp.square(delta - mean) for delta in deltas), zero) / len(deltas)


def _largest(variance: Array, density: float) -> Array:
    values = np.array(variance)
    kept = int(density * np.count_nonzero(values))
    if kept == 0:
        return jnp.zeros(values.shape, bool)
    return variance >= nth_largest(values.reshape(-1), kept)
