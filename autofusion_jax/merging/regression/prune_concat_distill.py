"""A teacher, least squares and distillation, one after the other, on unlabelled inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key, Num

from autofusion_jax.arguments import Count, CountOrZero, Positive
from autofusion_jax.batching import predict
from autofusion_jax.merging.augmentation import Augment, augmented, augments
from autofusion_jax.merging.distillation import DistilOptions, distil_network
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.regression.prune_concat import prune_concat
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import PseudoLabels, find_targets, teacher_name
from autofusion_jax.trees import num_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require


@factory
def prune_concat_distill(
    *,
    pseudo_labels: PseudoLabels = "em",
    ridge: Positive = 1e-2,
    epochs: Count = 15,
    learning_rate: Positive = 3e-4,
    batch_size: Count = 64,
    augment: Augment = "affine",
    copies: Count = 4,
    rounds: CountOrZero = 1,
) -> Method:
    """Learn from a teacher that runs all networks, into one: least squares first, then distillation.

    1. The teacher (`pseudo_labels`) says what the merged network should answer on the inputs.
    2. `prune_concat`, on the inputs and augmented copies of them, keeps units of every network and fits
       each layer, the head to the teacher's labels of the inputs.
    3. All weights are trained on the teacher's probabilities (see `distillation.distil`).
    4. In each of `rounds`, the inputs get new targets, `softmax((log p_teacher + log p_student) / 2)`,
       and all weights are trained on them again.

    Args:
        pseudo_labels: the teacher, `"em"`, `"z"` or `"confidence"`; real labels take its place if there
            are any beside the inputs.
        ridge: as in `prune_concat`, > 0.
        epochs: passes over the inputs in each distillation, >= 1.
        learning_rate: of Adam, > 0; it falls to 0 along a cosine in each distillation.
        batch_size: of each step, >= 1.
        augment: how images are changed, `"affine"`, `"shift"` or `"none"`; see `augmentation.augmented`.
        copies: how many times `prune_concat` sees every input, augmented anew but the first, >= 1.
        rounds: of self-training, >= 0.

    Returns:
        The method. `history["loss"]` has the loss of each epoch, all rounds one after the other;
        `diagnostics` what `prune_concat` says but its `head`; the `teacher` that taught, a name or
        `"labels"`; and the `agreement` of both networks, after `prune_concat` and distilled, with
        the labels of the inputs, fractions in [0, 1].

    Raises:
        ValueError: unknown pseudo-labels or augmentation, or an option out of its range.

    Example:
        >>> prune_concat_distill(epochs=30, rounds=2).name
        'prune_concat_distill'
    """
    options = DistilOptions(epochs, learning_rate, batch_size, augment)
    first = prune_concat(pseudo_labels=pseudo_labels, ridge=ridge)

    def run(task: MergeTask, key: Array) -> MergeResult:
        probs = find_targets("prune_concat_distill", task, pseudo_labels=pseudo_labels, zeta=0.0).probs
        shape = list(probs.shape[1:])
        wanted = "one vector of logits for every input"
        require(len(shape) == 1, "prune_concat_distill", "the networks' output", wanted, f"shape {shape}")
        teacher = teacher_name("prune_concat_distill", task, pseudo_labels)
        copy_key, distil_key = jax.random.split(key)
        x = augmented_copies(copy_key, task.require_x(), augment, copies)
        y = jnp.tile(probs.argmax(-1), len(x) // len(probs))
        start = first.run(dataclasses.replace(task, x=x, y=y), key)
        return _distilled(task, start, probs, teacher, options, rounds, distil_key)

    return Method("prune_concat_distill", run, max_models=None)


def _distilled(
    task: MergeTask,
    start: MergeResult,
    probs: Float[Array, "N classes"],
    teacher: str,
    options: DistilOptions,
    rounds: int,
    key: Key[Array, ""],
) -> MergeResult:
    x, params, targets = task.require_x(), start.params, probs
    curves = []
    for number in range(rounds + 1):
        if number:
            targets = averaged(probs, predict(task.require_apply_fn(), params, x))
        round_key = jax.random.fold_in(key, number)
        params, losses = distil_network(task.require_perm_spec(), params, x, targets, options, key=round_key)
        curves.append(losses)
    diagnostics = {
        **{name: value for name, value in start.diagnostics.items() if name != "head"},
        "teacher": teacher,
        "agreement": {
            "prune_concat": _agreement(task, start.params, probs),
            "distilled": _agreement(task, params, probs),
        },
    }
    return dataclasses.replace(
        start, params=params, history={"loss": np.concatenate(curves)}, diagnostics=diagnostics,
        num_learned=num_params(params),
    )  # fmt: skip


def augmented_copies(
    key: Key[Array, ""], x: Num[Array, "N ..."], augment: str, copies: int
) -> Num[Array, "M ..."]:
    """The inputs, and `copies - 1` augmented versions of each; where nothing is augmented, the inputs."""
    if not augments(x, augment):
        return x
    keys = jax.random.split(key, copies - 1)
    return jnp.concatenate([x, *(augmented(key, x, augment) for key in keys)])


def averaged(
    probs: Float[Array, "N classes"], logits: Float[Array, "N classes"]
) -> Float[Array, "N classes"]:
    """The teacher's and the student's predictions, averaged as log-probabilities.

    Example:
        >>> print(averaged(jnp.array([[0.5, 0.5]]), jnp.log(jnp.array([[0.1, 0.9]]))).round(2))
        [[0.25 0.75]]
    """
    tiny = jnp.finfo(probs.dtype).tiny
    return jax.nn.softmax((jnp.log(jnp.maximum(probs, tiny)) + jax.nn.log_softmax(logits)) / 2)


def _agreement(task: MergeTask, params: Params, probs: Float[Array, "N classes"]) -> float:
    return float(
        (predict(task.require_apply_fn(), params, task.require_x()).argmax(-1) == probs.argmax(-1)).mean()
    )
