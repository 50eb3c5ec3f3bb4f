"""TIES: trim the task vectors, elect a sign for every entry, merge what agrees with it."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, Pieces
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.sign_consensus import MERGES, elect, merge_agreeing
from autofusion_jax.merging.task_vectors.streaming import BLOCK, add_flat, trimmed_blocks
from autofusion_jax.merging.task_vectors.trim import global_thresholds, leaf_thresholds
from autofusion_jax.merging.weights import factors_for
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

    def kept(num: int) -> int:
        return max(1, int(num * density) + (variant == "fusionbench"))

    def merged(task: MergeTask, thresholds: Params, tie: float) -> MergeResult:
        factors = jnp.asarray(factors_for("ties", weights, len(task.models)))
        blocks = trimmed_blocks(task.require_base(), task.models, thresholds, BLOCK)
        parts = [np.asarray(elect_and_merge(block, factors, scale, tie, merge=merge)) for block in blocks]
        return aligned_result(task, add_flat(task.require_base(), np.concatenate(parts)))

    def by_leaf(task: MergeTask, key: Array) -> MergeResult:
        return merged(task, leaf_thresholds(task.require_base(), task.models, kept), 1.0)

    def prepare(pieces: Pieces) -> Method:
        least = global_thresholds(pieces, kept)
        tie = majority(pieces, least, weights) if variant == "fusionbench" else 0.0

        def run(task: MergeTask, key: Array) -> MergeResult:
            return merged(task, jax.tree.map(lambda _: least, task.require_base()), tie)

        return Method(
            "ties",
            run,
            uses_key=False,
            max_models=None,
            assumes_aligned=True,
            granularity="entry",
            needs_base=True,
        )

    if variant == "mergekit":
        return Method(
            "ties",
            by_leaf,
            uses_key=False,
            max_models=None,
            assumes_aligned=True,
            granularity="leaf",
            needs_base=True,
        )

    def run(task: MergeTask, key: Array) -> MergeResult:
        return prepare(lambda: [task]).run(task, key)

    return Method(
        "ties", run, uses_key=False, max_models=None, assumes_aligned=True, prepare=prepare, needs_base=True
    )


def majority(
    pieces: Pieces, thresholds: Float[np.ndarray, " models"], weights: Sequence[float] | None
) -> float:
    """The sign that most sums of trimmed task vectors have.

    Args:
        pieces: goes over base and networks.
        thresholds: for each network the magnitude from which on entries are kept.
        weights: a factor for each; all 1 if left out.
    """
    balance = 0
    for task in pieces():
        factors = jnp.asarray(factors_for("ties", weights, len(task.models)))
        least = jax.tree.map(lambda _: thresholds, task.require_base())
        for block in trimmed_blocks(task.require_base(), task.models, least, BLOCK):
            balance += int(_balance(block, factors))
    return float(np.sign(balance))


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


@jax.jit
def _balance(deltas: Float[Array, "models size"], weights: Float[Array, " models"]) -> Int[Array, ""]:
    """How many more sums are positive than negative."""
    return jnp.sign(_total(deltas, weights)).astype(jnp.int32).sum()
