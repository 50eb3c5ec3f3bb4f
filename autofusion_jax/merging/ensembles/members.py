"""The members of an ensemble: stacked parameters, their outputs, and which classes each one knows."""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from autofusion_jax.types import ApplyFn, Params

KNOWN = 0.1
"""A network knows a class if its mean probability is at least this share of the largest one's."""


def stack_members(models: Sequence[Params]) -> Params:
    """Parameters of N networks with a leading axis `[N]` on every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def run_members(
    apply_fn: ApplyFn, stacked: Params, x: Float[Array, "batch ..."]
) -> Float[Array, "models batch *places classes"]:
    """The logits of every member."""
    num = jax.tree.leaves(stacked)[0].shape[0]
    members = [jax.tree.map(operator.itemgetter(i), stacked) for i in range(num)]
    return jnp.stack([apply_fn(params, x) for params in members])


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
    mean = jax.nn.softmax(logits).mean(1)
    return mean >= KNOWN * mean.max(0)
