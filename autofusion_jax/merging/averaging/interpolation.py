"""Weight interpolation (AutoFusion, Eq. 5): the average of two networks as they are."""

from jax import Array

from autofusion_jax.arguments import Share
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult


@factory
def interpolation(*, gamma: Share = 0.5) -> Method:
    """Interpolate the weights: `gamma * A + (1 - gamma) * B`.

    Args:
        gamma: weight of model A, in [0, 1].

    Raises:
        ValueError: gamma is not in [0, 1].

    References:
        Wortsman et al.: Model soups, ICML 2022; AutoFusion, Eq. 5.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        params_a, params_b = task.models
        return aligned_result(task, interpolate(params_a, params_b, gamma), weights=(gamma, 1 - gamma))

    return Method(
        "interpolation", run, uses_key=False, assumes_aligned=True, propagates_nan=True, granularity="entry"
    )
