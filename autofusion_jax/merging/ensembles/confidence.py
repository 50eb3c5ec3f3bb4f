"""The confidence ensemble: AutoFusion's teacher (Eq. 17-19) as a network of its own."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.ensembles.members import logits_shape, run_members, stack_members
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import widened
from autofusion_jax.types import ApplyFn, Params


def most_confident(probs: Float[Array, "models *batch classes"]) -> Float[Array, "*batch classes"]:
    """For every input, the prediction of the model whose largest probability is largest (Eq. 18).

    Logarithms of probabilities are as good. Ties go to the first model.

    Example:
        >>> print(most_confident(jnp.array([[[0.6, 0.4]], [[0.1, 0.9]]])))
        [[0.1 0.9]]
    """
    winner = jnp.argmax(probs.max(-1), axis=0)  # [*batch]
    return jnp.take_along_axis(probs, winner[None, ..., None], axis=0)[0]


@factory
def confidence_ensemble() -> Method:
    """Run every network and answer with the one that is most confident on that input (Eq. 18).

    An upper bound for what pseudo-labels made this way can teach, at N times the cost and size.

    Returns:
        A method whose result has parameters stacked `[N, ...]` and an `apply_fn` of its own,
        which returns log-probabilities.

    Raises:
        ValueError: the networks' output is not one array of logits.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        apply_fn = task.require_apply_fn()
        logits_shape("confidence_ensemble", task)
        return MergeResult(stack_members(task.models), _MostConfident(apply_fn))

    return Method("confidence_ensemble", run, uses_key=False, max_models=None, changes_program=True)


@dataclasses.dataclass(frozen=True)
class _MostConfident:
    """The ensemble as a network; those of one `apply_fn` are equal, so that they share their programs."""

    apply_fn: ApplyFn

    def __call__(self, stacked: Params, x: Array) -> Array:
        logits = jnp.stack(run_members(self.apply_fn, stacked, x))
        # in logarithms: the probability of a class that is far behind would be 0, and that of none is 1
        return most_confident(jax.nn.log_softmax(widened(logits)))
