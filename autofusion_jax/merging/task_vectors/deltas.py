"""Task vectors, and the base with changes added."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.types import Params


def delta_of(value: Float[Array, "*shape"], origin: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`value - origin`, in float32 or wider, so that it is the same on the host and in every program.

    Example:
        >>> delta_of(jnp.array([1.0], jnp.bfloat16), jnp.array([0.001], jnp.bfloat16)).dtype
        dtype('float32')
    """
    wide = jnp.promote_types(value.dtype, jnp.float32)
    return value.astype(wide) - origin.astype(wide)


@jax.jit
def add_changes(base: Params, changes: Params) -> Params:
    """`base + changes`, leaf by leaf, in the changes' dtypes; the result is in the base's.

    A program of its own: together with what made the changes it might round otherwise, as a product and
    a sum become one instruction.

    Example:
        >>> add_changes({"step": 3, "w": jnp.ones(2)}, {"step": 3, "w": jnp.array([1.0, 2.0])})["w"].tolist()
        [2.0, 3.0]
    """

    def leaf(origin: Array, change: Array) -> Array:
        return origin.astype(change.dtype) + change

    return merge_leaves(leaf, [base, changes])
