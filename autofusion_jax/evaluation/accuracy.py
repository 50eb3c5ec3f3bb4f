"""Accuracy by task."""

from collections.abc import Sequence

import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.batching import predict
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Tasks = Sequence[Sequence[int]]
"""The classes of each task, A first."""

METRICS = ("joint", "task_a", "task_b", "avg")


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
    require(len(tasks) == 2, "task_metrics", "tasks", "two lists of classes", len(tasks))
    right = 100.0 * (predicted == labels)
    masks = [np.isin(labels, list(task)) for task in tasks]
    for mask, task in zip(masks, tasks):
        require(bool(mask.any()), "task_metrics", "labels", f"some of classes {list(task)}", "none")
    a, b = (right[..., mask].mean(-1) for mask in masks)
    joint = right[..., masks[0] | masks[1]].mean(-1)
    metrics = {"joint": joint, "task_a": a, "task_b": b, "avg": (a + b) / 2}
    return {name: np.asarray(value) for name, value in metrics.items()}


def evaluate(
    apply_fn: ApplyFn,
    params: Params,
    x: Float[Array, "n ..."],
    labels: Int[np.ndarray, " n"],
    tasks: Tasks,
) -> dict[str, float]:
    """Accuracy of one network, see `task_metrics`."""
    predicted = np.asarray(predict(apply_fn, params, x)).argmax(-1)
    return {name: float(value) for name, value in task_metrics(predicted, labels, tasks).items()}
