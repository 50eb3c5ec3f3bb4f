"""Small changes of the inputs that leave their labels as they are."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Float, Key, Num

Augment = Literal["shift", "affine", "none"]
MAX_SHARE = 28
"""Images are shifted by at most one pixel for so many of their height or width, and by at least one."""
MAX_ANGLE, MAX_STRETCH, MAX_SHEAR, MAX_MOVE = 15 * jnp.pi / 180, 0.1, 0.1, 0.05
"""Affine changes at most: radians, shares of the size along each axis, of height a pixel, of the size."""


def augments(x: Num[Array, "batch ..."], augment: str) -> bool:
    """Whether `augmented` changes these inputs: those of the rank of images."""
    return augment != "none" and x.ndim == 4


def augmented(key: Key[Array, ""], x: Num[Array, "batch ..."], augment: str) -> Num[Array, "batch ..."]:
    """Change every image of a batch at random; inputs that are no images stay as they are.

    Args:
        key: decides.
        x: inputs; images are `[batch, height, width, channels]`.
        augment: `"shift"`: by whole pixels in both directions, up to 1 for every `MAX_SHARE` of the
            height and width; `"affine"`: turned, stretched, sheared and moved, interpolated linearly;
            or `"none"`.

    Returns:
        The inputs, changed; what enters is a copy of the border.
    """
    if not augments(x, augment):
        return x
    if augment == "affine":
        return jax.vmap(_transform)(jax.random.split(key, len(x)), x)
    return _shift(key, x)


def _shift(key: Key[Array, ""], x: Float[Array, "batch height width channels"]) -> Array:
    batch, height, width, channels = x.shape
    rows, columns = -(-height // MAX_SHARE), -(-width // MAX_SHARE)
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode="edge")
    starts = jax.random.randint(key, (batch, 2), 0, 2 * jnp.array([rows, columns]) + 1)

    def crop(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, starts)


def _transform(key: Key[Array, ""], image: Float[Array, "height width channels"]) -> Array:
    size = jnp.array(image.shape[:2])
    angle, shear, *rest = jax.random.uniform(key, (6,), minval=-1, maxval=1)
    stretch, move = jnp.array(rest).reshape(2, 2)
    sine, cosine = jnp.sin(MAX_ANGLE * angle), jnp.cos(MAX_ANGLE * angle)
    turn = jnp.array([[cosine, -sine], [sine, cosine]]) + jnp.array([[0, 0], [MAX_SHEAR * shear, 0]])
    matrix = (1 + MAX_STRETCH * stretch)[:, None] * turn
    middle = (size - 1) / 2
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"))
    away = grid - middle[:, None, None]
    places = jnp.einsum("ij,jhw->ihw", matrix, away) + (middle + MAX_MOVE * size * move)[:, None, None]

    def read(channel: Float[Array, "height width"]) -> Array:
        return map_coordinates(channel, list(places), order=1, mode="nearest")

    return jax.vmap(read, in_axes=2, out_axes=2)(image)
