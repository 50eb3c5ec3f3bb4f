"""TIES: trim the task vectors, elect a sign for every entry, merge what agrees with it."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.merging.leafwise import merge_leaves, results_in_place
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.task_vectors.deltas import delta_of, weights_of
from autofusion_jax.merging.task_vectors.election import MERGES, elect, merge_agreeing
from autofusion_jax.merging.task_vectors.threshold import global_thresholds, leaf_thresholds
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

VARIANTS = ("paper", "fusionbench", "mergekit")


def ties(
    *,
    density: float = 0.2,
    scale: float = 1.0,
    merge: str = "mean",
    weights: Sequence[float] | None = None,
    variant: str = "paper",
) -> Method:
    """Add what the networks agree on: `base + scale * merge{delta_k : sign(delta_k) = elected sign}`.

    1. Trim: of every `delta_k = params_k - base` keep the entries of largest magnitude.
    2. Elect: the sign of `sum_k weights[k] * delta_k`, entry by entry.
    3. Merge the trimmed `weights[k] * delta_k` that have the elected sign.

    Args:
        density: share of entries kept, in (0, 1] (k in the paper, 20 %). Entries as large as the
            smallest one kept are kept, too.
        scale: how much of the result is added, > 0 (lambda in the paper; 0.3 in FusionBench).
        merge: `"mean"` over the weights that agree, `"sum"` (FusionBench's default), or `"max"`: the
            entry of largest magnitude.
        weights: a factor for each network; all 1 if left out.
        variant: `"paper"`: the `int(density n)` largest of all n entries of a network; entries whose
            sum is zero stay at the base. `"fusionbench"`: one entry more; a sum of zero takes the
            sign that most entries have. `"mergekit"`: the `int(density n)` largest, but at least one,
            of every leaf by itself; a sum of zero counts as positive.

    Returns:
        A method for any number of networks; needs `base`. `merge_trimmed` is its formula as a pure
        function, vmap-able over thresholds, weights and scale.

    Raises:
        ValueError: an option is out of its range, or there is not one weight for each network.

    References:
        Yadav, Tam, Choshen, Raffel, Bansal: TIES-Merging: resolving interference when merging
        models, NeurIPS 2023, Algorithm 1.
    """
    require(0 < density <= 1, "ties", "density", "in (0, 1], the share of entries kept", density)
    require(scale > 0, "ties", "scale", "> 0", scale)
    for kind, name, known in (("merge", merge, MERGES), ("variant", variant, VARIANTS)):
        if name not in known:
            raise unknown_name("ties", kind, name, known)

    def run(task: MergeTask) -> list[MergeResult]:
        factors = weights_of("ties", weights, len(task.models))
        thresholds = find_thresholds(task.origin, task.models, density, variant)
        tie = {"paper": 0.0, "mergekit": 1.0}.get(variant)
        if tie is None:
            tie = majority_sign(task.origin, task.models, thresholds, factors)
        params = merge_trimmed(task.origin, task.models, thresholds, factors, scale, tie, merge=merge)
        return results_in_place(task, params)

    return Method("ties", run, uses_key=False, max_models=None, in_place=True)


def find_thresholds(base: Params, models: Sequence[Params], density: float, variant: str) -> Params:
    """For every leaf `[models]` magnitudes from which on entries are kept. See `ties`.

    Example:
        >>> base, models = {"w": jnp.zeros(4)}, [{"w": jnp.array([1.0, -4.0, 3.0, 2.0])}]
        >>> find_thresholds(base, models, 0.5, "paper"), find_thresholds(base, models, 0.5, "fusionbench")
        ({'w': Array([3.], dtype=float32)}, {'w': Array([2.], dtype=float32)})
    """
    find = leaf_thresholds if variant == "mergekit" else global_thresholds
    one_more = variant == "fusionbench"
    return find(base, models, lambda num: max(1, int(num * density) + one_more))


def merge_trimmed(
    base: Params,
    models: Sequence[Params],
    thresholds: Params,
    weights: Float[Array, " models"],
    scale: float | Float[Array, ""],
    tie: float | Float[Array, ""] = 0.0,
    *,
    merge: str = "mean",
) -> Params:
    """`base + scale * merged` of task vectors trimmed at given thresholds. See `ties`.

    Every leaf is one program, so that no more than one leaf is in memory beside the parameters.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        thresholds: for every leaf `[models]` magnitudes from which on entries are kept.
        weights: a factor for each network.
        scale: how much is added.
        tie: the sign that is elected where the sum is zero.
        merge: `"mean"`, `"sum"` or `"max"`.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 3.0])}, {"w": jnp.array([5.0, -2.0])}]
        >>> merge_trimmed(base, models, {"w": jnp.array([1.0, 2.0])}, jnp.ones(2), 1.0)["w"].tolist()
        [3.0, 3.0]
    """
    leaf = functools.partial(_merge_leaf, weights, scale, tie, merge=merge)
    return merge_leaves(leaf, [base, thresholds, *models])


def majority_sign(
    base: Params, models: Sequence[Params], thresholds: Params, weights: Float[Array, " models"]
) -> Float[Array, ""]:
    """The sign that most of the elected signs have, over all leaves. See `merge_trimmed`.

    Example:
        >>> base, models = {"w": jnp.zeros(3)}, [{"w": jnp.array([-1.0, -3.0, 2.0])}]
        >>> float(majority_sign(base, models, {"w": jnp.zeros(1)}, jnp.ones(1)))
        -1.0
    """
    counts = [
        _count_signs(weights, origin, *others)
        for origin, *others in zip(*map(jax.tree.leaves, (base, thresholds, *models)))
        if jnp.issubdtype(jnp.result_type(origin), jnp.inexact)
    ]
    return jnp.sign(sum(count.astype(float) for count in counts))


@functools.partial(jax.jit, static_argnames="merge")
def _merge_leaf(
    weights: Array, scale: Array, tie: Array, origin: Array, thresholds: Array, *values: Array, merge: str
) -> Array:
    deltas = _trimmed(origin, thresholds, values)
    sign = elect(_total(weights, deltas), tie)
    return origin + scale * merge_agreeing(deltas, weights, sign, merge)


@jax.jit
def _count_signs(weights: Array, origin: Array, thresholds: Array, *values: Array) -> Int[Array, ""]:
    total = _total(weights, _trimmed(origin, thresholds, values))
    return jnp.sum(jnp.sign(total).astype(jnp.int32))


def _trimmed(origin: Array, thresholds: Array, values: Sequence[Array]) -> list[Array]:
    deltas = [delta_of(value, origin) for value in values]
    return [jnp.where(jnp.abs(d) >= threshold, d, 0) for d, threshold in zip(deltas, thresholds)]


def _total(weights: Array, deltas: Sequence[Array]) -> Array:
    return sum((w * delta for w, delta in zip(weights, deltas)), jnp.zeros_like(deltas[0]))
