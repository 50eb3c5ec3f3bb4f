"""Model Stock: as far from the base towards the average as the networks agree."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.averaging.directions import directions
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves, shared
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import headroom, weighted_sum, widened
from autofusion_jax.types import Params

NUM_ULPS = 8
"""Size of `1 + (n - 1) cos` below which it is rounding."""


@factory
def model_stock() -> Method:
    r"""Go from the base towards the average, leaf by leaf: `base + t (mean_k params_k - base)`,

    `t = n cos / (1 + (n - 1) cos)` for n networks, `cos` the mean cosine of the angles between any two
    of `params_k - base`. If what fine-tuning changed is the centre of all good networks plus noise of
    one size, this is the point between base and average that is closest to the centre: 0 where the
    networks changed in directions at right angles, 1 where they changed alike. An angle above 90
    degrees gives a negative t, as in the paper's formula; where that has no value (two opposite
    changes, as a leaf of one number may have) t is 0.

    Returns:
        A method for any number of networks; needs `base`. `diagnostics["ratio"]` has `t` by leaf, in the
        networks' structure. `stock` is its formula as a pure function.

    References:
        Jang, Yun, Han: Model Stock - all we need is just a few fine-tuned models, ECCV 2024. The
        mean over pairs is mergekit's; the paper has one angle for all.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> base, tuned = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([1.0, 0.0])}]
        >>> print(af.merge_many(tuned, None, None, base=base, method="model_stock").params["w"])
        [0.8284271  0.41421354]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        base = task.require_base()
        ratio = stock_ratio(base, task.models)
        params = stock(base, task.models, ratio)
        return aligned_result(task, params, diagnostics={"ratio": ratio})

    return Method(
        "model_stock",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="leaf",
        needs_base=True,
    )


@jax.jit
def stock_ratio(base: Params, models: Sequence[Params]) -> Params:
    """How far to go from the base towards the average, by leaf: `n cos / (1 + (n - 1) cos)`.

    0 where that has no value, and for leaves that are not floats.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}]
        >>> print(stock_ratio(base, models)["w"])
        0.0
    """

    def leaf(*values: Array) -> Float[Array, ""]:
        if not jnp.issubdtype(jnp.result_type(values[0]), jnp.inexact):
            return jnp.zeros(())
        *deltas, _ = _deltas(*map(widened, values))
        num, alike = len(deltas), jnp.all(shared(deltas)) & jnp.any(deltas[0] != 0)
        rows = jnp.stack(directions(deltas).units).reshape(num, -1)
        cosines = jnp.clip(jnp.matmul(rows, rows.T, precision="highest"), -1, 1)
        # equal changes are at no angle, also where rounding says otherwise
        mean = jnp.where(alike, 1, jnp.sum(jnp.triu(cosines, 1)) / (num * (num - 1) / 2))
        below = 1 + (num - 1) * mean
        has_value = below > NUM_ULPS * jnp.finfo(mean.dtype).eps
        return jnp.where(has_value, num * mean / jnp.where(has_value, below, 1), 0)

    return jax.tree.map(leaf, *models, base)


@jax.jit
def stock(base: Params, models: Sequence[Params], ratio: Params) -> Params:
    """`base + ratio * mean_k (models[k] - base)`, leaf by leaf."""

    def leaf(share: Array, *values: Array) -> Array:
        *deltas, room = _deltas(*values)
        mean = weighted_sum([jnp.asarray(1 / len(deltas), share.dtype)] * len(deltas), deltas)
        merged = room * (values[-1] / room + share * mean)
        return kept(jnp.all(shared(values[:-1])) & (share == 1), values[0], merged)

    return merge_leaves(lambda *leaves: leaf(leaves[-1], *leaves[:-1]), [*models, base, ratio])


def _deltas(*values: Float[Array, "*shape"]) -> tuple[Float[Array, "..."], ...]:
    """What changed of the last one, the base, in units of the headroom; and that."""
    room = headroom(*values)
    *tuned, origin = (value / room for value in values)
    return *(value - origin for value in tuned), room
