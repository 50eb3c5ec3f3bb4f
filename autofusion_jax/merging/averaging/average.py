"""The simple average of any number of networks."""

from jax import Array

from autofusion_jax.merging.averaging.weighted_average import weighted_sum
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.weights import weights_for


@factory
def average() -> Method:
    """Take the mean of all networks: `1/n sum_k params_k`, leaf by leaf.

    Returns:
        A method for any number of networks. For two it is `interpolation` with `gamma` 0.5.

    References:
        Wortsman et al.: Model soups - averaging weights of multiple fine-tuned models improves
        accuracy without increasing inference time, ICML 2022 (uniform soup).

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([value])} for value in (1.0, 2.0, 6.0)]
        >>> af.merge_many(models, None, None, method="average").params["w"].tolist()
        [3.0]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        weights = weights_for("average", None, len(task.models))
        return aligned_result(task, weighted_sum(task.models, weights), weights=weights)

    return Method(
        "average",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        propagates_nan=True,
        granularity="entry",
    )
