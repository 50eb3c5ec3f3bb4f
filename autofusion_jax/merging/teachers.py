"""Pseudo-labels: what the merged network should answer, as an ensemble of the networks tells it."""

import warnings
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import one_of
from autofusion_jax.batching import predict
from autofusion_jax.merging.ensembles.confidence import confidence_ensemble
from autofusion_jax.merging.ensembles.em import em_ensemble
from autofusion_jax.merging.ensembles.members import logits_shape
from autofusion_jax.merging.ensembles.z import z_ensemble
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.precision import wide
from autofusion_jax.validation import require

TEACHERS: dict[str, Callable[[], Method]] = {
    "confidence": confidence_ensemble,
    "em": em_ensemble,
    "z": z_ensemble,
}
"""The ensemble behind each kind of `pseudo_labels`; the paper's is `"confidence"` (Eq. 18)."""
PseudoLabels = Annotated[str, one_of(*TEACHERS)]


class Targets(NamedTuple):
    """What the merged network should answer.

    Attributes:
        probs: target distributions `[N, classes]`.
        keep: 1 where the target is trusted, else 0, `[N]`.
    """

    probs: Array
    keep: Array


def find_targets(caller: str, task: MergeTask, *, pseudo_labels: str, zeta: float) -> Targets:
    """The given labels, or else the teacher's predictions; warns if none of these is trusted.

    Args:
        caller: the method, for messages.
        task: the networks, inputs, and perhaps labels.
        pseudo_labels: a key of `TEACHERS`. "em" needs one answer for every input, and sites; where
            there are none it is "z".
        zeta: predictions whose largest probability is not above this are not trusted, in [0, 1).

    Returns:
        One-hot labels, all trusted; or the teacher's probabilities.

    Raises:
        ValueError: the networks' output is not one array of logits; or not one vector of logits for
            every input, where there are labels.
    """
    shape = logits_shape(caller, task)
    if task.y is not None:
        wanted = "one vector of logits for every input, as each has one label"
        require(len(shape) == 1, caller, "the networks' output", wanted, f"shape {list(shape)}")
        return real_labels(task.y, shape[-1])
    ensemble = TEACHERS[teacher_name(caller, task, pseudo_labels)]()
    teacher = ensemble.run(task, jax.random.key(0))  # of no consequence: ensembles draw nothing
    assert teacher.apply_fn is not None
    probs = jax.nn.softmax(wide(predict(teacher.apply_fn, teacher.params, task.require_x())))
    keep = (probs.max(-1) > zeta).astype(probs.dtype)
    if not keep.any():
        warnings.warn(
            f"{caller}: zeta={zeta} keeps {float(keep.mean()):.1%} of the inputs (the largest confidence "
            f"is {float(probs.max()):.3f}): the retain loss is 0. Lower zeta.",
            stacklevel=2,
        )
    return Targets(probs, keep)


def retain_loss(
    logits: Float[Array, "*batch classes"],
    probs: Float[Array, "*batch classes"],
    keep: Float[Array, "*batch"],
) -> Float[Array, ""]:
    """Mean cross-entropy to the targets over the trusted samples; 0 if there are none (Eq. 21).

    Args:
        logits: outputs of the merged network.
        probs: target distributions.
        keep: 1 for trusted samples, else 0.
    """
    # in half precision logits of some tens of thousands differ by more than there is
    cross_entropy = -jnp.sum(probs * jax.nn.log_softmax(wide(logits)), axis=-1)
    return jnp.sum(keep * cross_entropy) / jnp.maximum(jnp.sum(keep), 1.0)


def teacher_name(caller: str, task: MergeTask, pseudo_labels: str) -> str:
    """Who labels the inputs: `"labels"`, if they are given; or the teacher that stands for `pseudo_labels`.

    "em" needs one answer for every input, and sites; else it is "z".
    """
    if task.y is not None:
        return "labels"
    works = len(logits_shape(caller, task)) == 1 and bool(task.require_perm_spec().sites)
    return "z" if pseudo_labels == "em" and not works else pseudo_labels


def real_labels(y: Int[Array, " n"], num_classes: int) -> Targets:
    """Targets from true labels: one-hot, all trusted."""
    return Targets(jax.nn.one_hot(y, num_classes), jnp.ones(y.shape))
