"""Pseudo-labels from the networks themselves (AutoFusion, Eq. 17-19)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.batching import predict
from autofusion_jax.types import ApplyFn, Params


class Targets(NamedTuple):
    """What the merged network should answer.

    Attributes:
        probs: target distributions `[N, classes]`.
        keep: 1 where the target is trusted, else 0, `[N]`.
    """

    probs: Array
    keep: Array


def most_confident(probs: Float[Array, "models *batch classes"]) -> Float[Array, "*batch classes"]:
    """For every input, the prediction of the model whose largest probability is largest (Eq. 18).

    Ties go to the first model.

    Example:
        >>> print(most_confident(jnp.array([[[0.6, 0.4]], [[0.1, 0.9]]])))
        [[0.1 0.9]]
    """
    winner = jnp.argmax(probs.max(-1), axis=0)  # [*batch]
    return jnp.take_along_axis(probs, winner[None, ..., None], axis=0)[0]


def pseudo_labels(apply_fn: ApplyFn, models: tuple[Params, ...], x: Array, *, zeta: float) -> Targets:
    """Label inputs by the more confident model; trust what exceeds `zeta` (Eq. 17-19, 21).

    Args:
        apply_fn: returns logits `[N, classes]`.
        models: the networks' parameters.
        x: inputs `[N, ...]`.
        zeta: confidence threshold in [0, 1).

    Returns:
        The winning model's probabilities, and which of them exceed the threshold.
    """
    logits = jnp.stack([predict(apply_fn, params, x) for params in models])
    probs = most_confident(jax.nn.softmax(logits))
    return Targets(probs, (probs.max(-1) > zeta).astype(probs.dtype))


def real_labels(y: Int[Array, " n"], num_classes: int) -> Targets:
    """Targets from true labels: one-hot, all trusted."""
    return Targets(jax.nn.one_hot(y, num_classes), jnp.ones(y.shape))
