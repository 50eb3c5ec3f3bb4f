"""Task vectors of single leaves."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def delta_of(value: Float[Array, "*shape"], origin: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`value - origin`, in float32 or wider, so that it is the same on the host and in every program.

    Example:
        >>> delta_of(jnp.array([1.0], jnp.bfloat16), jnp.array([0.001], jnp.bfloat16)).dtype
        dtype('float32')
    """
    wide = jnp.promote_types(value.dtype, jnp.float32)
    return value.astype(wide) - origin.astype(wide)
