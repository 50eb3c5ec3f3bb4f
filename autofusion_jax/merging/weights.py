"""Weights of the networks in a merge."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from autofusion_jax.validation import require


def weights_for(
    caller: str, weights: Sequence[int | float] | None, num: int, *, normalize: bool = True
) -> tuple[float, ...]:
    """One weight for each network.

    Args:
        caller: the method, for messages.
        weights: what the user gave; None: all the same.
        num: how many networks there are.
        normalize: divide by the sum.

    Raises:
        ValueError: there are not `num` of them.

    Example:
        >>> weights_for("average", [1, 3], 2)
        (0.25, 0.75)
    """
    if weights is None:
        return (1 / num,) * num
    require(len(weights) == num, caller, "weights", f"{num} numbers, one for each network", list(weights))
    total = math.fsum(weights) if normalize else 1.0
    return tuple(float(weight / total) for weight in weights)


def factors_for(caller: str, factors: Sequence[int | float] | None, num: int) -> tuple[float, ...]:
    """One factor for each task vector, 1 where the user gave none; any finite numbers.

    Args:
        caller: the method, for messages.
        factors: what the user gave, or None.
        num: how many networks there are.

    Raises:
        ValueError: there are not `num` of them, or one is not finite.

    Example:
        >>> factors_for("ties", None, 2)
        (1.0, 1.0)
    """
    if factors is None:
        return (1.0,) * num
    fits = len(factors) == num and all(map(math.isfinite, factors))
    require(fits, caller, "weights", f"{num} numbers, one for each network, all finite", list(factors))
    return tuple(map(float, factors))


def add_up_to_one(weights: Float[Array, " models"]) -> Bool[Array, ""]:
    """Whether the sum is 1 but for the rounding of weights that were divided by their sum."""
    return jnp.abs(jnp.sum(weights) - 1) <= len(weights) * jnp.finfo(weights.dtype).eps
