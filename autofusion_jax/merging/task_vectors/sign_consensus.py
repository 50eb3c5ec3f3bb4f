"""The election of signs (TIES): entries that disagree with the elected sign do not count.

Sums over the networks are written out, one term each: XLA makes one loop of that on a CPU, and many
of a sum over an axis.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.types import Scalar

Merge = Literal["mean", "sum", "max"]
"""How the entries that agree are put together."""


def elect(total: Float[Array, "*shape"], tie: Scalar) -> Float[Array, "*shape"]:
    """The sign of a sum of entries, `tie` where it is zero.

    Example:
        >>> elect(jnp.array([-3.0, 0.0]), 1.0).tolist()
        [-1.0, 1.0]
    """
    return jnp.where(total == 0, tie, jnp.sign(total))


@functools.partial(jax.jit, static_argnames=("merge", "signed"))
def merge_agreeing(
    deltas: Sequence[Float[Array, "*shape"]] | Float[Array, "models *shape"],
    weights: Float[Array, " models"],
    sign: Float[Array, "*shape"],
    *,
    merge: Merge = "mean",
    signed: bool = False,
) -> Float[Array, "*shape"]:
    """Put together the entries of elected sign: `sum_k a_k weights[k] deltas[k]`, `a_k` 1 where they agree.

    Args:
        deltas: task vectors.
        weights: a factor for each.
        sign: elected signs, -1, 0 or 1; nothing agrees with 0.
        merge: divide by the magnitudes of the weights that agree, or not, or take the largest magnitude.
        signed: divide by the weights themselves (mergekit), which may be next to nothing in sum.

    Example:
        >>> deltas = jnp.array([[1.0, 2.0], [3.0, -1.0]])
        >>> merge_agreeing(deltas, jnp.ones(2), jnp.ones(2)).tolist()
        [2.0, 2.0]
    """
    weighted = [weight * delta for weight, delta in zip(weights, deltas)]
    agree = [value * sign > 0 for value in weighted]
    kept = [jnp.where(yes, value, 0) for yes, value in zip(agree, weighted)]
    if merge == "max":
        return sign * functools.reduce(jnp.maximum, map(jnp.abs, kept))
    if merge == "sum":
        return sum(kept, jnp.zeros_like(sign))
    shares = weights if signed else jnp.abs(weights)
    divisor = sum((jnp.where(yes, share, 0) for yes, share in zip(agree, shares)), jnp.zeros_like(sign))
    return sum(kept, jnp.zeros_like(sign)) / jnp.where(divisor == 0, 1, divisor)
