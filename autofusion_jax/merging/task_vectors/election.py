"""The election of signs (TIES): networks that disagree with the elected sign do not count."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

MERGES = ("mean", "sum", "max")
"""How the entries that agree are put together."""


def elect(total: Float[Array, "*shape"], tie: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """The sign of a sum of entries, `tie` where it is zero.

    Example:
        >>> elect(jnp.array([-3.0, 0.0]), 1.0).tolist()
        [-1.0, 1.0]
    """
    return jnp.where(total == 0, tie, jnp.sign(total))


def merge_agreeing(
    deltas: Sequence[Float[Array, "*shape"]],
    weights: Float[Array, " models"],
    sign: Float[Array, "*shape"],
    merge: str,
) -> Float[Array, "*shape"]:
    """Put together the entries of elected sign: `sum_k a_k weights[k] deltas[k]`, `a_k` 1 where they agree.

    Args:
        deltas: task vectors of one leaf.
        weights: a factor for each.
        sign: elected signs, -1, 0 or 1; nothing agrees with 0.
        merge: one of `MERGES`: divide by the weights that agree, or not, or take the largest magnitude.

    Example:
        >>> deltas = [jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])]
        >>> merge_agreeing(deltas, jnp.ones(2), jnp.ones(2), "mean").tolist()
        [2.0, 2.0]
    """
    weighted = [weight * delta for weight, delta in zip(weights, deltas)]
    kept = [jnp.where(value * sign > 0, value, 0) for value in weighted]
    if merge == "max":
        return sign * jnp.stack([jnp.abs(value) for value in kept]).max(0)
    if merge == "sum":
        return sum(kept, jnp.zeros_like(sign))
    divisor = sum(jnp.where(value * sign > 0, weight, 0) for weight, value in zip(weights, weighted))
    return sum(kept, jnp.zeros_like(sign)) / jnp.where(divisor == 0, 1, divisor)
