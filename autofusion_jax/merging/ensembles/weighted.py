"""The weighted ensemble: a weighted mean of what all networks say."""

import dataclasses
from typing import Any

from jax import Array

from autofusion_jax.arguments import Weights
from autofusion_jax.merging.ensembles.members import run_members, stack_members
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.weights import weights_for
from autofusion_jax.types import ApplyFn, Params


@factory
def weighted_ensemble(*, weights: Weights | None = None, normalize: bool = True) -> Method:
    """Run every network and answer with a weighted mean of their outputs: `sum_k w_k f(x; params_k)`.

    Args:
        weights: one for each network, with a sum above 0; all the same if left out.
        normalize: divide the weights by their sum.

    Returns:
        A method whose result has parameters stacked `[N, ...]` and an `apply_fn` of its own.

    Raises:
        ValueError: weights are not finite or their sum is not above 0; when it runs, they are not
            as many as the networks.

    References:
        Sagi, Rokach: Ensemble learning: A survey, WIREs Data Mining and Knowledge Discovery 2018;
        FusionBench, Table 1.

    Example:
        >>> weighted_ensemble(weights=[3.0, 1.0]).name
        'weighted_ensemble'
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        apply_fn = task.require_apply_fn()
        each = weights_for("weighted_ensemble", weights, len(task.models), normalize=normalize)
        return MergeResult(stack_members(task.models), _WeightedMean(apply_fn, each))

    return Method("weighted_ensemble", run, uses_key=False, max_models=None, changes_program=True)


@dataclasses.dataclass(frozen=True)
class _WeightedMean:
    """The ensemble as a network; those of equal weights are equal, so that they share their programs."""

    apply_fn: ApplyFn
    weights: tuple[float, ...]

    def __call__(self, stacked: Params, x: Array) -> Any:
        return average(run_members(self.apply_fn, stacked, x), self.weights)
