"""Losses for each kind of output: classes, tokens, images."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

Loss: TypeAlias = Callable[[Array, Array], Array]
"""`(outputs, targets) -> ` the mean loss of a batch."""

UNSCORED = -1
"""The target of a place whose token does not count."""


def cross_entropy(logits: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean cross-entropy of logits with integer labels.

    Example:
        >>> round(float(cross_entropy(jnp.zeros((2, 4)), jnp.array([1, 3]))), 3)
        1.386
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def token_cross_entropy(
    logits: Float[Array, "n tokens vocab"], targets: Int[Array, "n tokens"]
) -> Float[Array, ""]:
    """The mean cross-entropy over all tokens whose target is not `UNSCORED`.

    Example:
        >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.9, 0.1]]]))
        >>> round(float(token_cross_entropy(logits, jnp.array([[0, UNSCORED]]))), 3)
        0.693
    """
    scored = targets != UNSCORED
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(scored, targets, 0))
    return jnp.sum(each * scored) / jnp.maximum(jnp.sum(scored), 1)


def squared_error(outputs: Float[Array, "n ..."], targets: Float[Array, "n ..."]) -> Float[Array, ""]:
    """The mean squared difference."""
    return jnp.mean((outputs - targets) ** 2)
