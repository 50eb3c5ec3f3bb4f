"""The weighted average of any number of networks."""

import jax
from jax import Array

from autofusion_jax.arguments import Weights
from autofusion_jax.merging import fuse
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.weights import weights_for


@factory
def weighted_average(*, weights: Weights | None = None, normalize: bool = True) -> Method:
    """Take the weighted mean of all networks: `sum_k w_k params_k`, leaf by leaf.

    Args:
        weights: one for each network, with a sum above 0; all the same if left out.
        normalize: divide the weights by their sum. If not, they are taken as they are, and the merged
            parameters are as large as their sum says.

    Returns:
        A method for any number of networks. `weighted_sum` is its formula as a pure function,
        vmap-able over `weights`.

    Raises:
        ValueError: weights are not finite or their sum is not above 0; when it runs, they are not
            as many as the networks.

    References:
        Wortsman et al.: Model soups - averaging weights of multiple fine-tuned models improves
        accuracy without increasing inference time, ICML 2022.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([1.0])}, {"w": jnp.array([5.0])}]
        >>> result = af.merge_many(models, None, None, method="weighted_average", weights=[3, 1])
        >>> result.params["w"].tolist()
        [2.0]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        each = weights_for("weighted_average", weights, len(task.models), normalize=normalize)
        return aligned_result(task, weighted_sum(task.models, each), weights=each)

    return Method(
        "weighted_average",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        propagates_nan=True,
        granularity="entry",
    )


weighted_sum = jax.jit(fuse.average)
"""`sum_k weights[k] * models[k]`, leaf by leaf; vmap-able over `weights`."""
