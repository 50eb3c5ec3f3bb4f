"""Directions and lengths of leaves of any size."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.precision import scale_of


class Directions(NamedTuple):
    """The corresponding leaves of networks: `scale * lengths[k] * units[k]`.

    Attributes:
        units: arrays of length 1, or of zeros.
        lengths: their lengths in units of `scale`, so that none overflows; 0 for zeros.
        scale: a power of two.
    """

    units: list[Float[Array, "*shape"]]
    lengths: Float[Array, " models"]
    scale: Float[Array, ""]


def directions(values: Sequence[Float[Array, "*shape"]]) -> Directions:
    """Take leaves apart into directions and lengths.

    Example:
        >>> units, lengths, scale = directions([jnp.array([3e30, 4e30]), jnp.array([0.0, 0.0])])
        >>> [f"{entry:.1f}" for entry in units[0]], units[1].tolist(), f"{lengths[0] * scale:.1e}"
        (['0.6', '0.8'], [0.0, 0.0], '5.0e+30')
    """
    # every leaf relative to itself: one may be 1e60 times as long as another and still has a direction
    scales = [scale_of(value) for value in values]
    scaled = [value / scale for value, scale in zip(values, scales)]
    sizes = [jnp.sqrt(jnp.sum(value**2)) for value in scaled]
    units = [value / jnp.where(size > 0, size, 1) for value, size in zip(scaled, sizes)]
    largest = scale_of(jnp.stack([jnp.where(size > 0, scale, 0) for size, scale in zip(sizes, scales)]))
    lengths = jnp.stack([size * (scale / largest) for size, scale in zip(sizes, scales)])
    return Directions(units, jnp.where(jnp.stack(sizes) > 0, lengths, 0), largest)
