"""Features by which units are compared: all of their weights, and moments of their activations."""

from typing import Annotated

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import one_of
from autofusion_jax.symmetry.moments import Moments
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import transform
from autofusion_jax.types import Params

KINDS = {
    "correlation": Moments.correlation,
    "covariance": lambda moments: moments.cov,
    "second_moment": Moments.second_moment,
}
"""What makes a similarity of the moments: Pearson correlation, covariance, or `E[a b]`."""
Kind = Annotated[str, one_of(*KINDS)]

BATCH_SIZE = 500
"""Inputs whose activations are held at once."""


def unit_vectors(spec: PermSpec, params: Params, group: str) -> list[Float[Array, "*outer n weights"]]:
    """All weights of every unit of a group: one array for each leaf axis that carries it, in either role.

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        group: name of the group.

    Returns:
        Arrays `[*outer, n, weights]`, biases, norm scales and statistics included, in the order
        of the leaves.
    """
    views: list[Array] = []

    def collect(leaf: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name == group:
            front = (*outer_axes, axis)
            lead = [leaf.shape[i] for i in front]
            views.append(jnp.moveaxis(leaf, front, range(len(front))).reshape(*lead, -1))
        return leaf

    transform(spec, params, collect)
    return views
