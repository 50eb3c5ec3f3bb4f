"""TIES: trim the task vectors, elect a sign for every entry, merge what agrees with it."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import Factors, Positive, PositiveShare
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import deltas_of
from autofusion_jax.merging.task_vectors.sign_consensus import Merge, elect, merge_agreeing
from autofusion_jax.merging.task_vectors.trim import leaf_thresholds, network_thresholds, trim
from autofusion_jax.merging.weights import factors_for
from autofusion_jax.precision import is_complex, rounded, widened
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params, Scalar

Variant = Literal["paper", "fusionbench", "mergekit"]


@factory
def ties(
    *,
    density: PositiveShare = 0.2,
    scale: Positive = 1.0,
    merge: Merge = "mean",
    weights: Factors | None = None,
    variant: Variant = "paper",
) -> Method:
    """Add what the networks agree on: `base + scale * merge{delta_k : sign(delta_k) = elected sign}`.

    1. Trim: of every `delta_k = params_k - base` keep the entries of largest magnitude; a complex one is as
       large as the larger of its parts, and kept or dropped as one.
    2. Elect: the sign of `sum_k weights[k] * delta_k`, entry by entry.
    3. Merge the trimmed `weights[k] * delta_k` that have the elected sign.

    Args:
        density: share of entries kept, in (0, 1] (k in the paper, 20 %). Entries as large as the
            smallest one kept are kept, too.
        scale: how much of the result is added, > 0 (lambda in the paper; 0.3 in FusionBench).
        merge: `"mean"`, divided by the sum of `|weights[k]|` of those that agree, `"sum"` (FusionBench's
            default), or `"max"`: the entry of largest magnitude.
        weights: a factor for each network; all 1 if left out.
        variant: `"paper"`: the `int(density n)` largest, but at least one, of all n entries of a
            network; entries whose sum is zero stay at the base. `"fusionbench"`: one entry more; a
            sum of zero takes the sign that most sums have. `"mergekit"`: the largest of every leaf
            by itself; a sum of zero counts as positive; a mean is divided by the sum of the weights
            themselves, which may be next to nothing where they have both signs.

    Returns:
        A method for any number of networks; needs `base`. `elect_and_merge` is its formula for
        trimmed task vectors as a pure function, vmap-able over weights and scale.

    Raises:
        ValueError: an option is out of its range, or there is not one weight for each network.

    References:
        Yadav, Tam, Choshen, Raffel, Bansal: TIES-Merging: resolving interference when merging
        models, NeurIPS 2023, Algorithm 1.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        base, models = task.require_base(), task.models
        factors = jnp.asarray(factors_for("ties", weights, len(models)))
        rank_of = functools.partial(num_kept, density=density, variant=variant)
        thresholds = leaf_thresholds if variant == "mergekit" else network_thresholds
        least = thresholds(base, models, rank_of)
        tie = 1.0 if variant == "mergekit" else 0.0
        if variant == "fusionbench":
            tie = majority(balance(base, models, least, factors))
        params = trim_elect_merge(
            base, models, least, factors, scale, tie, merge=merge, signed=variant == "mergekit"
        )
        return aligned_result(task, params)

    return Method(
        "ties",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        needs_base=True,
        granularity="leaf" if variant == "mergekit" else "network",
    )


def num_kept(num: int, *, density: float, variant: str) -> int:
    """How many of `num` entries are kept, but for those as large as the smallest of them. See `ties`.

    Example:
        >>> num_kept(10, density=0.25, variant="paper"), num_kept(10, density=0.25, variant="fusionbench")
        (2, 3)
    """
    return max(1, int(num * density) + (variant == "fusionbench"))


@functools.partial(jax.jit, static_argnames=("merge", "signed"))
def trim_elect_merge(
    base: Params,
    models: Sequence[Params],
    thresholds: Params,
    weights: Float[Array, " models"],
    scale: Scalar,
    tie: Scalar = 0.0,
    *,
    merge: str = "mean",
    signed: bool = False,
) -> Params:
    """The formula of `ties` for given thresholds: trim, elect a sign for every entry, add what agrees.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        thresholds: for every leaf `[models]` magnitudes; smaller entries are trimmed.
        weights: a factor for each network.
        scale: a factor for what is added.
        tie: the sign that is elected where the sum is zero.
        merge: `"mean"`, `"sum"` or `"max"`.
        signed: see `merge_agreeing`.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([-1.0, 2.0])}]
        >>> thresholds = {"w": jnp.array([3.0, 1.0])}
        >>> trim_elect_merge(base, models, thresholds, jnp.ones(2), 1.0)["w"].tolist()
        [3.0, 2.0]
    """

    def leaf(origin: Array, least: Array, *values: Array) -> Array:
        if not is_float(origin):
            return origin
        room, trimmed = _trimmed(origin, least, values)
        changes = elect_and_merge(trimmed, weights, scale, tie, merge=merge, signed=signed)
        return rounded((widened(origin) * room + changes) / room, origin.dtype)

    return jax.tree.map(leaf, base, thresholds, *models)


def _trimmed(origin: Array, least: Array, values: Sequence[Array]) -> tuple[Array, list[Array]]:
    """The trimmed task vectors of a leaf, and their scale; see `deltas_of`."""
    parts = is_complex(origin)
    origin, *tuned = map(widened, (origin, *values))
    room, deltas = deltas_of(origin, tuned)
    bounds = [bound * room for bound in least]
    return room, [trim(delta, bound, parts=parts) for delta, bound in zip(deltas, bounds)]


@jax.jit
def balance(
    base: Params, models: Sequence[Params], thresholds: Params, weights: Float[Array, " models"]
) -> Int[Array, "2"]:
    """How many more sums of trimmed task vectors are positive than negative, as `count_signs` gives it."""

    def leaf(origin: Array, least: Array, *values: Array) -> Array:
        if not is_float(origin):
            return jnp.zeros(2, jnp.int32)
        return count_signs(_total(_trimmed(origin, least, values)[1], weights))

    return sum(jax.tree.leaves(jax.tree.map(leaf, base, thresholds, *models)), jnp.zeros(2, jnp.int32))


def count_signs(values: Float[Array, "*shape"]) -> Int[Array, "2"]:
    """How many more values are positive than negative, as `[high, low]`, the number `256 * high + low`.

    Networks may have more entries than 32 bits count: 2^39 here.

    Example:
        >>> high, low = count_signs(jnp.array([3.0, -1.0, 0.0, 2.0])).tolist()
        >>> 256 * high + low
        1
    """
    signs = jnp.sign(values).astype(jnp.int32).reshape(-1)
    whole = signs.size - signs.size % 2**16
    rows = jax.lax.slice_in_dim(signs, 0, whole).reshape(-1, 2**16).sum(1)
    rest = jax.lax.slice_in_dim(signs, whole, signs.size).sum()
    return jnp.stack([(rows // 256).sum(), (rows % 256).sum() + rest])


def majority(balance: Int[Array | np.ndarray, "2"]) -> Float[Array, ""]:
    """The sign of a number that `count_signs` gives, or of the sum of several.

    Example:
        >>> [float(majority(jnp.array(number))) for number in ([1, -256], [1, -300], [-1, 257])]
        [0.0, -1.0, 1.0]
    """
    high, low = jnp.asarray(balance)
    high, low = high + low // 256, low % 256
    return jnp.sign(jnp.where(high == 0, low, high)).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("merge", "signed"))
def elect_and_merge(
    deltas: Sequence[Float[Array, "*shape"]] | Float[Array, "models *shape"],
    weights: Float[Array, " models"],
    scale: Scalar,
    tie: Scalar = 0.0,
    *,
    merge: str = "mean",
    signed: bool = False,
) -> Float[Array, "*shape"]:
    """Elect signs and merge the trimmed task vectors that agree, times `scale`. See `ties`.

    Args:
        deltas: trimmed task vectors.
        weights: a factor for each.
        scale: a factor for the result.
        tie: the sign that is elected where the sum is zero.
        merge: `"mean"`, `"sum"` or `"max"`.
        signed: see `merge_agreeing`.

    Example:
        >>> elect_and_merge(jnp.array([[1.0, 3.0], [5.0, -2.0]]), jnp.ones(2), 1.0).tolist()
        [3.0, 3.0]
    """
    sign = elect(_total(deltas, weights), tie)
    return scale * merge_agreeing(deltas, weights, sign, merge=merge, signed=signed)


def _total(
    deltas: Sequence[Float[Array, "*shape"]] | Float[Array, "models *shape"],
    weights: Float[Array, " models"],
) -> Float[Array, "*shape"]:
    return sum((weight * delta for weight, delta in zip(weights, deltas)), jnp.zeros_like(deltas[0]))
