"""Task vectors of single leaves, and weights of networks."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.validation import require


def delta_of(value: Float[Array, "*shape"], origin: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`value - origin`, in float32 or wider, so that it is the same on the host and in every program.

    Example:
        >>> delta_of(jnp.array([1.0], jnp.bfloat16), jnp.array([0.001], jnp.bfloat16)).dtype
        dtype('float32')
    """
    wide = jnp.promote_types(value.dtype, jnp.float32)
    return value.astype(wide) - origin.astype(wide)


def weights_of(caller: str, weights: Sequence[float] | None, num: int) -> Float[Array, " num"]:
    """One weight for each of `num` networks; ones if there are none.

    Raises:
        ValueError: there is another number of weights.

    Example:
        >>> weights_of("ties", None, 2).tolist()
        [1.0, 1.0]
    """
    if weights is None:
        return jnp.ones(num)
    require(len(weights) == num, caller, "weights", f"{num} numbers, one for each network", list(weights))
    return jnp.asarray(weights, float)
