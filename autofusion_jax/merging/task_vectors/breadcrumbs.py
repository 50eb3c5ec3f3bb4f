"""Model Breadcrumbs: task vectors without their smallest and without their largest entries."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.arguments import PositiveShare, ShareBelowOne
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.dare import drop_and_rescale
from autofusion_jax.merging.task_vectors.sparsify import merge_method, merge_pruned
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
    """Merge task vectors of which every leaf keeps neither the largest nor the smallest magnitudes.

    Of the n entries of a leaf the `int(outliers n)` largest are dropped, then the smallest, until
    `int(density n)` are left. Of entries that are as large, the earlier counts as the larger.

    Args:
        density: share of entries kept, in (0, 1].
        outliers: share of largest entries dropped, in [0, 1); fewer if else too few were left
            (1 - gamma in the paper, where gamma is 99 % or more and beta, the share of small
            entries dropped, 85 to 90 %).
        merge: what merges them: `"task_arithmetic"`, `"ties"` (the election of signs, without
            trimming once more), or a method with options of its own.

    Returns:
        A method for any number of networks; needs `base`. `dare`'s `drop_and_rescale` with a density
        of 1 is its formula for given masks, as a pure function.

    Raises:
        ValueError: an option is out of its range.

    References:
        Davari, Belilovsky: Model Breadcrumbs: scaling multi-task model merging with sparse masks,
        ECCV 2024.
    """
    known = {"task_arithmetic": task_arithmetic(), "ties": ties(density=1.0)}
    method = merge_method("breadcrumbs", merge, known)

    def run(task: MergeTask, key: Array) -> MergeResult:
        def prune(number: int, base: Params, params: Params) -> Params:
            return drop_and_rescale(base, params, select_band(base, params, density, outliers), 1.0)

        return merge_pruned(method, task, key, prune)

    by_leaf = isinstance(merge, str) or method.granularity != "network"
    return Method(
        "breadcrumbs", run, uses_key=method.uses_key, max_models=None, assumes_aligned=True, needs_base=True,
        granularity="leaf" if by_leaf else "network",
    )  # fmt: skip


def select_band(base: Params, params: Params, density: float, outliers: float) -> Params:
    """Which entries of every leaf are kept, True or False: a band of ranks of magnitudes. See `breadcrumbs`.

    Example:
        >>> base, params = {"w": jnp.zeros(5)}, {"w": jnp.array([1.0, -5.0, 3.0, 2.0, 4.0])}
        >>> select_band(base, params, 0.4, 0.2)["w"].tolist()
        [False, False, True, False, True]
    """

    def leaf(origin: Any, value: Any) -> np.ndarray:
        sizes, shape = magnitudes(origin, value), jnp.shape(origin)
        kept = int(density * sizes.size)
        dropped = min(int(outliers * sizes.size), sizes.size - kept)
        if kept == 0:
            return np.zeros(shape, bool)
        return _ranks_between(sizes, dropped, dropped + kept).reshape(shape)

    return jax.tree.map(leaf, base, params)


def _ranks_between(sizes: np.ndarray, first: int, end: int) -> np.ndarray:
    """Where the `first + 1`-th to `end`-th largest values are; of equal ones the earlier is the larger."""
    low, high = (nth_largest(sizes.copy(), rank) for rank in (end, first + 1))
    band = (sizes >= low) & (sizes <= high)
    # so many of those as large as the largest kept rank above the band
    above = first - np.count_nonzero(sizes > high)
    band[np.flatnonzero(sizes == high)[:above]] = False
    below = np.count_nonzero(band) - (end - first)
    smallest = np.flatnonzero(band & (sizes == low))
    band[smallest[len(smallest) - below :]] = False
    return band
