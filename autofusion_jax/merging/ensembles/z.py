"""The z ensemble: a teacher that compares networks by standardised logits."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from autofusion_jax.batching import predict
from autofusion_jax.merging.ensembles.members import known_classes, logits_shape, run_members, stack_members
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.types import ApplyFn, Params


class Standard(NamedTuple):
    """How the logits of every network are standardised.

    Attributes:
        mean: mean of each logit over the inputs, `[models, classes]`.
        std: its standard deviation, likewise.
        known: which classes count, likewise.
        scale: the mean of the standard deviations that count: brings logits back to their size.
    """

    mean: Float[Array, "models classes"]
    std: Float[Array, "models classes"]
    known: Bool[Array, "models classes"]
    scale: Float[Array, ""]


@jax.jit
def measure(logits: Float[Array, "models *batch classes"]) -> Standard:
    """Measure the logits of all networks on unlabelled inputs of all tasks."""
    flat = logits.reshape(logits.shape[0], -1, logits.shape[-1])
    known = known_classes(flat)
    std = flat.std(1)
    # logits that never vary stay as they are; of one input none does
    std = jnp.maximum(std, jnp.finfo(flat.dtype).eps * std.max())
    std = jnp.where(std > 0, std, 1)
    return Standard(flat.mean(1), std, known, jnp.mean(std, where=known))


def standardised(
    logits: Float[Array, "models *batch classes"], standard: Standard
) -> Float[Array, "models *batch classes"]:
    """Standardise logits; those of classes that a network does not know are -inf."""
    shape = (logits.shape[0], *(1,) * (logits.ndim - 2), logits.shape[-1])
    mean, std, known = (jnp.reshape(part, shape) for part in standard[:3])
    return jnp.where(known, (logits - mean) / std * standard.scale, -jnp.inf)


def z_ensemble() -> Method:
    """Run every network; each class is answered by the networks that know it, in standard units.

    `logit_c = s max_k (f_k(x)_c - mean_c) / std_c` over the networks k that know class c, with mean
    and standard deviation over the inputs, and `s` the mean of the standard deviations. A network
    that is confident of everything, its own task or not, then no longer outshouts the others.
    Assumes that the inputs hold all classes about equally often. Which network knows which class is
    guessed from the same inputs, see `known_classes`.

    Returns:
        A method whose result has an `apply_fn` of its own, which returns logits.

    Raises:
        ValueError: the networks' output is not one array of logits.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        logits_shape("z_ensemble", task)
        apply_fn, stacked = task.require_apply_fn(), stack_members(task.models)
        logits = jnp.stack([predict(apply_fn, params, task.require_x()) for params in task.models])
        params = {"members": stacked, "standard": measure(logits)._asdict()}
        return MergeResult(params, _LargestStandardised(apply_fn))

    return Method("z_ensemble", run, uses_key=False, max_models=None, changes_program=True)


@dataclasses.dataclass(frozen=True)
class _LargestStandardised:
    """The ensemble as a network; those of one `apply_fn` are equal, so that they share their programs."""

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Array) -> Array:
        logits = run_members(self.apply_fn, params["members"], x)
        return standardised(logits, Standard(**params["standard"])).max(0)
