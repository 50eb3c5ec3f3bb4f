"""Accuracy by task, in three senses for which papers use one name.

- *Joint*: the argmax over all classes, over the inputs of either task.
- *Task A*, *task B*: the argmax over all classes, over the inputs of one task.
- *Task A within*, *task B within*: the argmax over the task's own classes, over its inputs. This
  is what ZipIt and MuDSC call per-task accuracy: the network is told the task.
"""

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import Count, checked
from autofusion_jax.batching import predict
from autofusion_jax.merging.ensembles.confidence import most_confident
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Tasks = Sequence[Sequence[int]]
"""The classes of each task, A first."""

METRICS = ("joint", "task_a", "task_b", "avg")
WITHIN_METRICS = ("task_a_within", "task_b_within", "avg_within")
ALL_METRICS = (*METRICS, *WITHIN_METRICS)
"""The metrics of two tasks."""


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


def task_names(num_tasks: int) -> tuple[str, ...]:
    """The default names of tasks: `task_a`, `task_b`, ...

    Raises:
        ValueError: fewer than two tasks, or more than the alphabet has letters.
    """
    require(
        2 <= num_tasks <= len(string.ascii_lowercase), "task_metrics", "tasks",
        "two lists of classes or more", num_tasks,
    )  # fmt: skip
    return tuple(f"task_{letter}" for letter in string.ascii_lowercase[:num_tasks])


def task_metrics(
    predicted: Int[np.ndarray, "*batch n"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Accuracy in percent, always as the argmax over all classes.

    Args:
        predicted: predicted classes.
        labels: true classes; or one row for each task, with -1 for inputs that are none of its.
        tasks: the classes of each task, A first.
        names: what three tasks or more are called; by default as `task_names` says.

    Returns:
        `joint` over all inputs of any task, `task_a` and `task_b` over the inputs of that
        task's classes, and `avg`, the mean of these two; each `[*batch]`. Of three tasks or more
        `tasks` (name -> accuracy) in place of `task_a` and `task_b`. Nothing where an input
        has a label in more than one row: no one class answers all its questions.

    Raises:
        ValueError: there is one task, or one has no inputs.

    Example:
        >>> metrics = task_metrics(np.array([0, 1, 0]), np.array([0, 1, 1]), [[0], [1]])
        >>> {name: float(value) for name, value in metrics.items()}
        {'joint': 66.66666666666667, 'task_a': 100.0, 'task_b': 50.0, 'avg': 75.0}
    """
    masks = task_masks(labels, tasks)
    if labels.ndim == 2 and masks.sum(0).max() > 1:
        return {}
    rows = np.broadcast_to(labels, masks.shape)
    right = [100.0 * ((predicted == row) & mask) for row, mask in zip(rows, masks)]
    joint = np.maximum.reduce(right)[..., masks.any(0)].mean(-1)
    values = [np.asarray(hits[..., mask].mean(-1)) for hits, mask in zip(right, masks)]
    return {"joint": np.asarray(joint), **_by_task(values, names, "")}


def within_metrics(
    within: Int[np.ndarray, "tasks *batch n"],
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Accuracy in percent, each task's as the argmax over its own classes.

    Args:
        within: predicted classes of each task.
        labels: as in `task_metrics`; an input may have a label in each task.
        tasks: the classes of each task, A first.
        names: as in `task_metrics`.

    Returns:
        `task_a_within`, `task_b_within`, and `avg_within`, the mean of both; each `[*batch]`.
        Of three tasks or more `tasks_within` in place of the first two.

    Raises:
        ValueError: there is one task, or one has no inputs.

    Example:
        >>> metrics = within_metrics(np.array([[0, 0, 0], [2, 2, 3]]), np.array([0, 1, 3]), [[0, 1], [2, 3]])
        >>> {name: float(value) for name, value in metrics.items()}
        {'task_a_within': 50.0, 'task_b_within': 100.0, 'avg_within': 75.0}
    """
    masks = task_masks(labels, tasks)
    rows = np.broadcast_to(labels, masks.shape)
    values = [
        np.asarray((100.0 * (predicted == row))[..., mask].mean(-1))
        for predicted, row, mask in zip(within, rows, masks)
    ]
    return _by_task(values, names, "_within")


def _by_task(values: Sequence[np.ndarray], names: Sequence[str], suffix: str) -> dict[str, Any]:
    """One accuracy for each task and their mean, as records name them."""
    names = names or task_names(len(values))
    named = dict(zip(names, values, strict=True))
    mean = {f"avg{suffix}": np.asarray(sum(values) / len(values))}
    if len(values) > 2:
        return {f"tasks{suffix}": named, **mean}
    return {**{f"{name}{suffix}": value for name, value in named.items()}, **mean}


def task_masks(labels: Int[np.ndarray, "..."], tasks: Tasks) -> np.ndarray:
    """Mark the inputs that belong to each task, `[tasks, n]`.

    Args:
        labels: true classes `[n]`, or `[tasks, n]`: each input's class in each task, or -1.
        tasks: the classes of each task, A first.

    Raises:
        ValueError: there is one task, or one has no inputs.
    """
    task_names(len(tasks))
    by_task = np.broadcast_to(labels, (len(tasks), labels.shape[-1]))
    masks = np.stack([np.isin(row, list(task)) for row, task in zip(by_task, tasks)])
    for mask, task in zip(masks, tasks):
        require(bool(mask.any()), "task_metrics", "labels", f"some of classes {list(task)}", "none")
    return masks


def measure(
    predicted: Predictions,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The metrics of `task_metrics` and of `within_metrics`, of predictions `[*batch, n]`."""
    overall, within = (np.asarray(classes) for classes in predicted)
    return {
        **task_metrics(overall, labels, tasks, names=names),
        **within_metrics(within, labels, tasks, names=names),
    }


@checked
def evaluate(
    apply_fn: ApplyFn,
    params: Params,
    x: Any,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    num_heads: Count = 1,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """Accuracy of one network in percent.

    Args:
        apply_fn: returns logits `[n, classes]`, or `[num_heads, n, classes]`.
        params: its parameters.
        x: inputs `[n, ...]`, or a pytree of them.
        labels: true classes; or one row for each task, with -1 for inputs that are none of its
            (tasks that share the classes of one head). Where an input has a label in each (is it
            prime, is it odd), only the accuracies within the tasks are defined.
        tasks: the classes of each task, A first.
        num_heads: `MergeResult.num_heads`, >= 1; see `classify` for what several heads answer.
        names: what three tasks or more are called; by default as `task_names` says.

    Returns:
        The metrics of `task_metrics` and of `within_metrics`.

    Raises:
        ValueError: an argument is not what it must be.
    """
    outputs = predict(apply_fn if num_heads == 1 else _HeadsSecond(apply_fn), params, x)
    return _as_floats(measure(classify(outputs, tasks), labels, tasks, names=names))


def _as_floats(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _as_floats(value) if isinstance(value, Mapping) else float(value)
        for name, value in metrics.items()
    }


@dataclasses.dataclass(frozen=True)
class _HeadsSecond:
    """A network of several heads that returns `[n, heads, classes]`; equal ones share a trace."""

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Array) -> Array:
        return jnp.moveaxis(self.apply_fn(params, x), 0, 1)
