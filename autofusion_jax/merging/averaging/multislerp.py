"""The mean of any number of networks on a sphere, with a mean length."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from autofusion_jax.arguments import Weights
from autofusion_jax.merging.averaging.directions import directions
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves, shared
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.weights import add_up_to_one, weights_for
from autofusion_jax.precision import headroom, length, weighted_sum
from autofusion_jax.types import Params, Scalar

NUM_ULPS = 8
"""Length of the mean direction below which it is rounding, in units of that of the weights."""


@factory
def multislerp(*, weights: Weights | None = None) -> Method:
    r"""Average directions and lengths apart from each other: leaf by leaf,

    `base + (sum_k w_k |v_k|) m / |m|` with `m = sum_k w_k v_k / |v_k|` and `v_k = params_k - base`;
    `base` is 0 if there is none.

    mergekit goes on to project all `v_k / |v_k|` on the plane that touches the sphere at `m / |m|`
    and adds their weighted mean; but that mean is 0 whatever they are, so nothing is left out here.
    Where `m` is 0 (two opposite networks) the weighted mean of the `v_k` is taken, for any number of them.

    Args:
        weights: one for each network, with a sum above 0; divided by it. All the same if left out.

    Returns:
        A method for any number of networks; takes `base`, but does not need it. `mean_on_sphere` is
        its formula as a pure function, vmap-able over `weights`.

    Raises:
        ValueError: weights are not finite or their sum is not above 0; when it runs, they are not
            as many as the networks.

    References:
        Goddard et al.: Arcee's MergeKit, EMNLP 2024 industry track (method `multislerp`).

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 3.0])}]
        >>> print(af.merge_many(models, None, None, method="multislerp").params["w"])
        [1.4142135 1.4142135]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        each = weights_for("multislerp", weights, len(task.models))
        origin = jax.tree.map(jnp.zeros_like, task.models[0]) if task.base is None else task.base
        return aligned_result(task, mean_on_sphere(origin, task.models, each), weights=each)

    return Method(
        "multislerp", run, uses_key=False, max_models=None, assumes_aligned=True, granularity="leaf"
    )


@jax.jit
def mean_on_sphere(
    base: Params,
    models: Sequence[Params],
    weights: Sequence[Scalar] | Num[Array, " models"],
) -> Params:
    """The formula of `multislerp`, leaf by leaf.

    Args:
        base: the origin of the sphere.
        models: parameters of the networks.
        weights: one for each, with the sum 1.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 3.0])}]
        >>> shares = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> jax.vmap(mean_on_sphere, (None, None, 0))(base, models, shares)["w"].tolist()
        [[1.0, 0.0], [0.0, 3.0]]
    """

    shares = jnp.stack([1.0 * jnp.asarray(weight) for weight in weights])

    def leaf(*values: Array) -> Array:
        *tuned, origin = values
        room = headroom(*values)
        deltas = [value / room - origin / room for value in tuned]
        polar = directions(deltas)
        mean = weighted_sum(shares, polar.units)
        size = length(mean)
        opposite = size < NUM_ULPS * jnp.finfo(size.dtype).eps * jnp.sum(jnp.abs(shares))
        on_sphere = weighted_sum(shares, polar.lengths) * (mean / jnp.where(opposite, 1, size)) * polar.scale
        moved = origin / room + jnp.where(opposite, weighted_sum(shares, deltas), on_sphere)
        return kept(jnp.all(shared(tuned)) & add_up_to_one(shares), tuned[0], room * moved)

    return merge_leaves(leaf, [*models, base])
