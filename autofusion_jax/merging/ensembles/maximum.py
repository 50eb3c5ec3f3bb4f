"""The max-model predictor: for every class, the largest logit that any network gives it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.ensembles.members import run_members, stack_members
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.types import ApplyFn, Params


@factory
def max_model() -> Method:
    """Run every network and answer with the elementwise maximum of their outputs: `max_k f(x; params_k)`.

    Returns:
        A method whose result has parameters stacked `[N, ...]` and an `apply_fn` of its own.

    References:
        Wu, Liu, Zhou: Heterogeneous model reuse via optimizing multiparty multiclass margin,
        ICML 2019; FusionBench, Table 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([[1.0, 5.0]])}, {"w": jnp.array([[3.0, 2.0]])}]
        >>> apply_fn = lambda p, x: x @ p["w"]
        >>> result = af.merge_many(models, None, jnp.ones((1, 1)), apply_fn=apply_fn, method="max_model")
        >>> result.apply_fn(result.params, jnp.ones((1, 1))).tolist()
        [[3.0, 5.0]]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return MergeResult(stack_members(task.models), _Maximum(task.require_apply_fn()))

    return Method("max_model", run, uses_key=False, max_models=None, changes_program=True)


@dataclasses.dataclass(frozen=True)
class _Maximum:
    """The ensemble as a network; those of one `apply_fn` are equal, so that they share their programs."""

    apply_fn: ApplyFn

    def __call__(self, stacked: Params, x: Array) -> Any:
        outputs = run_members(self.apply_fn, stacked, x)
        return jax.tree.map(lambda *each: functools.reduce(jnp.maximum, each), *outputs)
