"""TIES: trim the task vectors, elect a sign for every entry, merge what agrees with it."""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from autofusion_jax.merging.leafwise import results_in_place
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.task_vectors.blocks import add_flat, trimmed_blocks
from autofusion_jax.merging.task_vectors.deltas import weights_of
from autofusion_jax.merging.task_vectors.election import MERGES, elect, merge_agreeing
from autofusion_jax.merging.task_vectors.threshold import global_thresholds, leaf_thresholds
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

VARIANTS = ("paper", "fusionbench", "mergekit")
BLOCK = 1 << 18
"""How many entries are merged at once: few enough to stay in the cache with all networks'."""


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
        variant: `"paper"`: the `int(density n)` largest, but at least one, of all n entries of a
            network; entries whose sum is zero stay at the base. `"fusionbench"`: one entry more; a
            sum of zero takes the sign that most sums have. `"mergekit"`: the largest of every leaf
            by itself; a sum of zero counts as positive.

    Returns:
        A method for any number of networks; needs `base`. `elect_and_merge` is its formula for
        trimmed task vectors as a pure function, vmap-able over weights and scale.

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
        combine = functools.partial(_merge_block, weights=factors, scale=scale, merge=merge)
        blocks = trimmed_blocks(task.origin, task.models, thresholds, BLOCK)
        if variant == "fusionbench":
            flat = _merge_with_majority(combine, blocks)
        else:
            tie = float(variant == "mergekit")
            flat = np.concatenate([np.asarray(combine(block, tie=tie)[0]) for block in blocks])
        return results_in_place(task, add_flat(task.origin, flat))

    return Method("ties", run, uses_key=False, max_models=None, in_place=True)


def find_thresholds(base: Params, models: Sequence[Params], density: float, variant: str) -> Params:
    """For every leaf `[models]` magnitudes from which on entries are kept. See `ties`.

    Example:
        >>> base, models = {"w": jnp.zeros(4)}, [{"w": jnp.array([1.0, -4.0, 3.0, 2.0])}]
        >>> find_thresholds(base, models, 0.5, "paper"), find_thresholds(base, models, 0.5, "fusionbench")
        ({'w': array([3.], dtype=float32)}, {'w': array([2.], dtype=float32)})
    """
    find = leaf_thresholds if variant == "mergekit" else global_thresholds
    one_more = variant == "fusionbench"
    return find(base, models, lambda num: max(1, int(num * density) + one_more))


@functools.partial(jax.jit, static_argnames="merge")
def elect_and_merge(
    deltas: Float[Array, "models *shape"],
    weights: Float[Array, " models"],
    scale: float | Float[Array, ""],
    tie: float | Float[Array, ""] = 0.0,
    *,
    merge: str = "mean",
) -> Float[Array, "*shape"]:
    """Elect signs and merge the trimmed task vectors that agree, times `scale`. See `ties`.

    Args:
        deltas: trimmed task vectors.
        weights: a factor for each.
        scale: a factor for the result.
        tie: the sign that is elected where the sum is zero.
        merge: `"mean"`, `"sum"` or `"max"`.

    Example:
        >>> elect_and_merge(jnp.array([[1.0, 3.0], [5.0, -2.0]]), jnp.ones(2), 1.0).tolist()
        [3.0, 3.0]
    """
    return scale * merge_agreeing(deltas, weights, elect(_total(deltas, weights), tie), merge=merge)


def _total(deltas: Float[Array, "models *shape"], weights: Float[Array, " models"]) -> Float[Array, "*shape"]:
    return sum((weight * delta for weight, delta in zip(weights, deltas)), jnp.zeros_like(deltas[0]))


@functools.partial(jax.jit, static_argnames="merge")
def _merge_block(
    deltas: Float[Array, "models size"],
    weights: Float[Array, " models"],
    scale: float | Array,
    tie: float | Array,
    *,
    merge: str,
) -> tuple[Float[Array, " size"], Int[Array, ""], Bool[Array, " size"]]:
    """Also how many more sums are positive than negative, and which entries add up to zero."""
    total = _total(deltas, weights)
    kept = functools.reduce(jnp.logical_or, [delta != 0 for delta in deltas])
    merged = elect_and_merge(deltas, weights, scale, tie, merge=merge)
    return merged, jnp.sign(total).astype(jnp.int32).sum(), (total == 0) & kept


def _merge_with_majority(combine: Callable[..., tuple], blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Merge all blocks, then the entries that add up to zero, with the sign that most sums have."""
    merged, places, disputed, balance = [], [], [], 0
    for number, block in enumerate(blocks):
        part, more, zero = combine(block, tie=0.0)
        found = np.flatnonzero(zero)
        places.append(found + number * BLOCK)
        disputed.append(block[:, found])
        merged.append(np.asarray(part))
        balance += int(more)
    flat, place, columns = np.concatenate(merged), np.concatenate(places), np.concatenate(disputed, 1)
    for start in range(0, place.size, BLOCK):
        here = place[start : start + BLOCK]
        padded = np.pad(columns[:, start : start + BLOCK], ((0, 0), (0, BLOCK - here.size)))
        flat[here] = combine(padded, tie=float(np.sign(balance)))[0][: here.size]
    return flat
