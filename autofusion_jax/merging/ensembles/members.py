"""The members of an ensemble: stacked parameters, their outputs, and which classes each one knows."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Shaped

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.precision import widened
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

KNOWN = 0.1
"""A network knows a class if its mean probability is at least this share of the largest one's."""


def logits_shape(caller: str, task: MergeTask) -> tuple[int, ...]:
    """The shape of what the networks say of one input, `[*places, classes]`.

    Raises:
        ValueError: that is not one array of logits.
    """
    outputs = jax.eval_shape(task.require_apply_fn(), task.models[0], task.require_x()[:1])
    leaves = jax.tree.leaves(outputs)
    one = len(leaves) == 1 and outputs is leaves[0]
    shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves)
    require(
        one and len(outputs.shape) >= 2,
        caller, "the networks' output", "one array of logits [N, ..., classes]",
        f"shape {shapes}" if one else f"a {type(outputs).__name__} of {len(leaves)} arrays, shapes {shapes}",
        "Infer the spec of a function that returns the logits alone, or take a method that needs no labels, "
        'such as "activation_matching".',
    )  # fmt: skip
    return outputs.shape[1:]


def stack_members(models: Sequence[Any]) -> Any:
    """Parameters or outputs of N networks with a leading axis `[N]` on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def run_members(apply_fn: ApplyFn, stacked: Params, x: Shaped[Array, "batch ..."]) -> list[Any]:
    """What every member says: logits `[batch, *places, classes]`, or a pytree of such outputs."""
    num = jax.tree.leaves(stacked)[0].shape[0]
    members = [jax.tree.map(operator.itemgetter(i), stacked) for i in range(num)]
    return [apply_fn(params, x) for params in members]


def known_classes(logits: Float[Array, "models batch classes"]) -> Bool[Array, "models classes"]:
    """Which classes each network was trained on, guessed from unlabelled inputs of all tasks.

    A network that never saw a class gives it hardly any probability on any input. Each class is
    known to the network with the largest mean probability, and to those with at least `KNOWN` of it.

    Args:
        logits: of every network on inputs of all tasks.

    Example:
        >>> logits = jnp.array([[[9.0, 0.0], [8.0, 0.0]], [[0.0, 9.0], [1.0, 8.0]]])
        >>> known_classes(logits).tolist()
        [[True, False], [False, True]]
    """
    mean = jax.nn.softmax(widened(logits)).mean(1)
    return mean >= KNOWN * mean.max(0)
