"""Accuracy by task, in the three senses that papers mix up.

- *Joint*: the argmax over all classes, over the inputs of either task.
- *Task A*, *task B*: the argmax over all classes, over the inputs of one task.
- *Task A within*, *task B within*: the argmax over the task's own classes, over its inputs. This
  is what ZipIt and MuDSC call per-task accuracy: the network is told the task.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.batching import predict
from autofusion_jax.merging.ensembles.confidence import most_confident
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Tasks = Sequence[Sequence[int]]
"""The classes of each task, A first."""

METRICS = ("joint", "task_a", "task_b", "avg")
WITHIN_METRICS = ("task_a_within", "task_b_within", "avg_within")
ALL_METRICS = (*METRICS, *WITHIN_METRICS)


class Predictions(NamedTuple):
    """Predicted classes.

    Attributes:
        overall: by the argmax over all classes, `[*batch, n]`.
        within: by the argmax over the classes of each task, `[tasks, *batch, n]`.
    """

    overall: Array
    within: Array


def classify(outputs: Float[Array, "n ..."], tasks: Tasks) -> Predictions:
    """Read predicted classes off a network's outputs.

    Args:
        outputs: logits `[n, classes]`; or `[n, heads, classes]` of a network with one head for
            each task. Of several heads the one whose largest probability is largest answers
            for all classes, as in AutoFusion's teacher (Eq. 18), and head k within task k.
        tasks: the classes of each task.

    Returns:
        The predictions, of shapes `[n]` and `[tasks, n]`.

    Raises:
        ValueError: there are several heads, but not one for each task.

    Example:
        >>> overall, within = classify(jnp.array([[0.1, 0.5, 0.4]]), [[0, 2], [1]])
        >>> overall.tolist(), within.tolist()
        ([1], [[2], [1]])
    """
    if outputs.ndim == 2:
        heads = [outputs] * len(tasks)
        overall = outputs.argmax(-1)
    else:
        wanted, found = f"of one head or of {len(tasks)}, one a task", f"{outputs.shape[1]} heads"
        require(outputs.shape[1] == len(tasks), "classify", "outputs", wanted, found)
        heads = list(jnp.moveaxis(outputs, 1, 0))
        overall = most_confident(jax.nn.softmax(jnp.stack(heads))).argmax(-1)
    within = [
        jnp.asarray(list(task))[head[:, jnp.asarray(list(task))].argmax(-1)]
        for head, task in zip(heads, tasks)
    ]
    return Predictions(overall, jnp.stack(within))


def task_metrics(
    predicted: Int[np.ndarray, "*batch n"], labels: Int[np.ndarray, " n"], tasks: Tasks
) -> dict[str, np.ndarray]:
    """Accuracy in percent, always as the argmax over all classes.

    Args:
        predicted: predicted classes.
        labels: true classes.
        tasks: the classes of task A and of task B.

    Returns:
        `joint` over all inputs of either task, `task_a` and `task_b` over the inputs of that
        task's classes, and `avg`, the mean of these two; each `[*batch]`.

    Raises:
        ValueError: there are not two tasks, or one has no inputs.

    Example:
        >>> metrics = task_metrics(np.array([0, 1, 0]), np.array([0, 1, 1]), [[0], [1]])
        >>> {name: float(value) for name, value in metrics.items()}
        {'joint': 66.66666666666667, 'task_a': 100.0, 'task_b': 50.0, 'avg': 75.0}
    """
    right = 100.0 * (predicted == labels)
    masks = task_masks(labels, tasks)
    a, b = (right[..., mask].mean(-1) for mask in masks)
    joint = right[..., masks.any(0)].mean(-1)
    return {name: np.asarray(value) for name, value in zip(METRICS, (joint, a, b, (a + b) / 2))}


def within_metrics(
    within: Int[np.ndarray, "tasks *batch n"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
) -> dict[str, np.ndarray]:
    """Accuracy in percent, each task's as the argmax over its own classes.

    Args:
        within: predicted classes of each task.
        labels: true classes; one row for each task where every input has a label in each.
        tasks: the classes of task A and of task B.

    Returns:
        `task_a_within`, `task_b_within`, and `avg_within`, the mean of both; each `[*batch]`.

    Raises:
        ValueError: there are not two tasks, or one has no inputs.

    Example:
        >>> metrics = within_metrics(np.array([[0, 0, 0], [2, 2, 3]]), np.array([0, 1, 3]), [[0, 1], [2, 3]])
        >>> {name: float(value) for name, value in metrics.items()}
        {'task_a_within': 50.0, 'task_b_within': 100.0, 'avg_within': 75.0}
    """
    by_task = np.broadcast_to(labels, (len(tasks), labels.shape[-1]))
    a, b = (
        (100.0 * (predicted == row))[..., mask].mean(-1)
        for predicted, row, mask in zip(within, by_task, task_masks(labels, tasks))
    )
    return {name: np.asarray(value) for name, value in zip(WITHIN_METRICS, (a, b, (a + b) / 2))}


def task_masks(labels: Int[np.ndarray, "..."], tasks: Tasks) -> np.ndarray:
    """Which inputs belong to which task, `[tasks, n]`.

    Args:
        labels: true classes `[n]`, or `[tasks, n]`: each input's class in each task.
        tasks: the classes of task A and of task B.

    Raises:
        ValueError: there are not two tasks, or one has no inputs.
    """
    require(len(tasks) == 2, "task_metrics", "tasks", "two lists of classes", len(tasks))
    by_task = np.broadcast_to(labels, (len(tasks), labels.shape[-1]))
    masks = np.stack([np.isin(row, list(task)) for row, task in zip(by_task, tasks)])
    for mask, task in zip(masks, tasks):
        require(bool(mask.any()), "task_metrics", "labels", f"some of classes {list(task)}", "none")
    return masks


def evaluate(
    apply_fn: ApplyFn,
    params: Params,
    x: Float[Array, "n ..."],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    num_heads: int = 1,
) -> dict[str, float]:
    """Accuracy of one network in percent.

    Args:
        apply_fn: returns logits `[n, classes]`, or `[num_heads, n, classes]`.
        params: its parameters.
        x: inputs.
        labels: true classes; one row for each task where every input has a label in each
            (is it prime, is it odd). Then only the accuracies within the tasks are defined.
        tasks: the classes of task A and of task B.
        num_heads: `MergeResult.num_heads`; see `classify` for what several heads answer.

    Returns:
        The metrics of `task_metrics` and of `within_metrics`.
    """
    outputs = predict(apply_fn if num_heads == 1 else _HeadsSecond(apply_fn), params, x)
    overall, within = (np.asarray(classes) for classes in classify(outputs, tasks))
    metrics = task_metrics(overall, labels, tasks) if labels.ndim == 1 else {}
    metrics |= within_metrics(within, labels, tasks)
    return {name: float(value) for name, value in metrics.items()}


@dataclasses.dataclass(frozen=True)
class _HeadsSecond:
    """A network of several heads that returns `[n, heads, classes]`; equal ones share a trace."""

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Array) -> Array:
        return jnp.moveaxis(self.apply_fn(params, x), 0, 1)
