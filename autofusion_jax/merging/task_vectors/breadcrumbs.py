"""Model Breadcrumbs: task vectors without their smallest and without their largest entries."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import PositiveShare, ShareBelowOne
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import delta_of
from autofusion_jax.merging.task_vectors.sparsify import merge_deltas, merge_method
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic
from autofusion_jax.merging.task_vectors.ties import ties
from autofusion_jax.merging.task_vectors.trim import magnitudes, nth_largest
from autofusion_jax.types import Params


@factory
def breadcrumbs(
    *,
    density: PositiveShare = 0.1,
    outliers: ShareBelowOne = 0.01,
    merge: Literal["task_arithmetic", "ties"] | Method = "task_arithmetic",
) -> Method:
    """Merge task vectors of which every leaf keeps `low <= |params_k - base| <= high`.

    Of the n entries of a leaf the `int(outliers n)` largest are dropped, then the smallest, until
    `int(density n)` are left.

    Args:
        density: share of entries kept, in (0, 1].
        outliers: share of largest entries dropped, in [0, 1); fewer if else too few were left
            (1 - gamma in the paper, where gamma is 99 % or more and beta, the share of small
            entries dropped, 85 to 90 %).
        merge: what merges them: `"task_arithmetic"`, `"ties"` (the election of signs, without
            trimming once more), or a method with options of its own.

    Returns:
        A method for any number of networks; needs `base`. `keep_between` is its formula as a pure
        function.

    Raises:
        ValueError: an option is out of its range.

    References:
        Davari, Belilovsky: Model Breadcrumbs: scaling multi-task model merging with sparse masks,
        ECCV 2024.
    """
    known = {"task_arithmetic": task_arithmetic(), "ties": ties(density=1.0)}
    method = merge_method("breadcrumbs", merge, known)

    def run(task: MergeTask, key: Array) -> MergeResult:
        base = task.require_base()
        bounds = [find_bounds(base, params, density, outliers) for params in task.models]
        deltas = [keep_between(base, *pair) for pair in zip(task.models, bounds)]
        return merge_deltas(method, task, key, deltas)

    by_leaf = isinstance(merge, str) or method.granularity != "network"
    return Method(
        "breadcrumbs", run, uses_key=method.uses_key, max_models=None, assumes_aligned=True, needs_base=True,
        granularity="leaf" if by_leaf else "network",
    )  # fmt: skip


def find_bounds(base: Params, params: Params, density: float, outliers: float) -> Params:
    """For every leaf the smallest and the largest magnitude `[2]` that is kept. See `breadcrumbs`.

    Example:
        >>> base, params = {"w": jnp.zeros(5)}, {"w": jnp.array([1.0, -5.0, 3.0, 2.0, 4.0])}
        >>> find_bounds(base, params, 0.4, 0.2)
        {'w': array([3., 4.], dtype=float32)}
    """

    def leaf(origin: Array, value: Array) -> np.ndarray:
        sizes = magnitudes(origin, value)
        kept = int(density * sizes.size)
        dropped = min(int(outliers * sizes.size), sizes.size - kept)
        if kept == 0:
            return np.array([np.inf, np.inf], sizes.dtype)
        return np.array([nth_largest(sizes, rank) for rank in (dropped + kept, dropped + 1)])

    return jax.tree.map(leaf, base, params)


def keep_between(base: Params, params: Params, bounds: Params) -> Params:
    """`params - base` where its magnitude is within the bounds `[2]` of its leaf, else 0; by leaf.

    Example:
        >>> params = {"w": jnp.array([1.0, -5.0, 3.0])}
        >>> keep_between({"w": jnp.zeros(3)}, params, {"w": jnp.array([2.0, 4.0])})["w"].tolist()
        [0.0, 0.0, 3.0]
    """

    return jax.tree.map(_keep_leaf, base, params, bounds)


@jax.jit
def _keep_leaf(origin: Array, value: Array, bound: Float[Array, "2"]) -> Array:
    if not jnp.issubdtype(origin.dtype, jnp.inexact):
        return origin
    delta = delta_of(value, origin)
    size = jnp.abs(delta)
    return jnp.where((size >= bound[0]) & (size <= bound[1]), delta, 0)
