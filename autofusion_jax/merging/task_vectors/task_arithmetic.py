"""Task arithmetic: the base plus the scaled sum of the task vectors."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import Factors, Positive
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import add_merged
from autofusion_jax.merging.weights import factors_for
from autofusion_jax.types import Params, Scalar


@factory
def task_arithmetic(*, scale: Positive = 0.3, weights: Factors | None = None) -> Method:
    """Add what every network learned to the base: `base + scale * sum_k weights[k] * (params_k - base)`.

    Args:
        scale: how much of each task vector is added, > 0 (lambda in the paper, 0.3 in FusionBench).
        weights: a factor for each network; all 1 if left out.

    Returns:
        A method for any number of networks; needs `base`. `add_task_vectors` is its formula as a
        pure function, vmap-able over `scale`.

    Raises:
        ValueError: scale is not above 0, or there is not one weight for each network.

    References:
        Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi: Editing models with
        task arithmetic, ICLR 2023.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        scales = scale * jnp.asarray(factors_for("task_arithmetic", weights, len(task.models)))
        return aligned_result(task, add_task_vectors(task.require_base(), task.models, scales))

    return Method(
        "task_arithmetic",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        propagates_nan=True,
        granularity="entry",
        needs_base=True,
    )


@jax.jit
def add_task_vectors(
    base: Params, models: Sequence[Params], scale: Scalar | Float[Array, " models"]
) -> Params:
    """`base + sum_k scale[k] * (models[k] - base)`, leaf by leaf.

    Args:
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        scale: a factor for all task vectors, or one for each.

    Example:
        >>> import jax.numpy as jnp
        >>> base, models = {"w": jnp.array([1.0])}, [{"w": jnp.array([2.0])}, {"w": jnp.array([4.0])}]
        >>> jax.vmap(lambda scale: add_task_vectors(base, models, scale))(jnp.array([0.0, 0.5]))["w"].tolist()
        [[1.0], [3.0]]
    """
    scales = jnp.broadcast_to(jnp.asarray(scale), (len(models),))

    def merged(deltas: Sequence[Array]) -> Array:
        return sum((factor * delta for factor, delta in zip(scales, deltas)), jnp.zeros_like(deltas[0]))

    return add_merged(merged, base, models)
