"""SCE: select what the networks differ in, calculate weights, erase minority signs."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.arguments import PositiveShare
from autofusion_jax.merging.leafwise import aligned_result, merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import deltas_of
from autofusion_jax.merging.task_vectors.sign_consensus import elect, merge_agreeing
from autofusion_jax.merging.task_vectors.trim import nth_largest
from autofusion_jax.precision import is_complex, scale_of, widened
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params


@factory
def sce(*, density: PositiveShare = 0.1) -> Method:
    """Add a mean of the task vectors' entries that differ most, weighted by leaf: select, calculate, erase.

    For every leaf by itself:

    1. Select: of the entries that any network changed, keep those in which `var_k delta_k` is largest, and
       all others as large as the smallest of these; the rest becomes zero.
    2. Calculate: a weight for each network, `w_k = sum delta_k^2 / sum_j sum delta_j^2`.
    3. Erase: entries of another sign than `sum_k delta_k` (positive if zero) do not count; the rest
       is added as `sum_k w_k delta_k / sum_k w_k`.

    Args:
        density: share kept of the entries that were changed, in (0, 1] (tau in the paper, 10 %; all in
            mergekit, which below 1 counts only those in which the networks differ).

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
        selected = jax.tree.map(functools.partial(_select, density), base, *task.models)
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
    room, changes = deltas_of(origin, values, by_leaf=True)
    # a complex number, of which there are two parts here, is kept or dropped as one
    kept = kept.reshape(*kept.shape, *(1,) * (origin.ndim - kept.ndim))
    deltas = jnp.stack([jnp.where(kept, change, 0) for change in changes])
    squares = jnp.square(deltas / scale_of(deltas)).sum(range(1, deltas.ndim))
    total = squares.sum()
    weights = jnp.where(total == 0, 1 / len(values), squares / jnp.where(total == 0, 1, total))
    return (
        origin * room + merge_agreeing(deltas, weights, elect(sum(deltas, jnp.zeros_like(deltas[0])), 1.0))
    ) / room


def _select(density: float, origin: Any, *values: Any) -> Array:
    if not is_float(origin):
        return jnp.zeros(jnp.shape(origin), bool)
    variance, changed = map(np.asarray, _variance(origin, *values))
    kept = int(density * np.count_nonzero(changed))
    least = nth_largest(variance[changed], kept) if kept else np.inf
    return jnp.asarray(changed & (variance >= least))


@jax.jit
def _variance(origin: Array, *values: Array) -> tuple[Array, Array]:
    """The variance of the task vectors' entries, in units of the largest, and where one is not zero."""
    parts = is_complex(origin)
    origin, values = widened(origin), tuple(map(widened, values))
    # as differences from the first network: for networks alike it is zero and no rounding error
    apart = jnp.stack(deltas_of(values[0], values, by_leaf=True)[1])
    apart = apart / scale_of(apart)
    variance = jnp.square(apart - apart.mean(0)).mean(0)
    changed = functools.reduce(jnp.logical_or, [value != origin for value in values])
    return (variance.sum(-1), changed.any(-1)) if parts else (variance, changed)
