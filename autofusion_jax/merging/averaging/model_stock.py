"""Model Stock: as far from the base towards the average as the networks agree."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.leafwise import aligned_result, merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.types import Params

SMALLEST = 1e-6
"""Of what divides: product of two lengths (mergekit's value), and `1 + (n - 1) cos`."""


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

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}]
        >>> print(stock_ratio(base, models)["w"])
        0.0
    """

    def leaf(origin: Array, *values: Array) -> Float[Array, ""]:
        wide = jnp.promote_types(jnp.result_type(origin), jnp.float32)
        deltas = jnp.stack([jnp.ravel(value).astype(wide) - jnp.ravel(origin) for value in values])
        lengths = jnp.linalg.norm(deltas, axis=-1)
        cosines = deltas @ deltas.T / jnp.maximum(lengths[:, None] * lengths, SMALLEST)
        pairs = list(itertools.combinations(range(len(values)), 2))
        cosine = jnp.mean(jnp.stack([jnp.clip(cosines[pair], -1, 1) for pair in pairs]))
        below = 1 + (len(values) - 1) * cosine
        return jnp.where(below > SMALLEST, len(values) * cosine / jnp.where(below > SMALLEST, below, 1), 0)

    return jax.tree.map(leaf, base, *models)


@jax.jit
def stock(base: Params, models: Sequence[Params], ratio: Params) -> Params:
    """`ratio * mean_k models[k] + (1 - ratio) * base`, leaf by leaf."""

    def leaf(origin: Array, share: Array, *values: Array) -> Array:
        return share * (sum(values) / len(values)) + (1 - share) * origin

    return merge_leaves(leaf, [base, ratio, *models])
