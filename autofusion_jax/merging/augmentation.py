"""Small changes of the inputs that leave their labels as they are."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.validation import unknown_name

AUGMENTATIONS = ("auto", "shift", "none")
MAX_SHARE = 28
"""Images are shifted by at most one pixel for so many of their height or width, and by at least one."""


def check_augment(caller: str, augment: str) -> None:
    """Raise ValueError for an unknown augmentation."""
    if augment not in AUGMENTATIONS:
        raise unknown_name(caller, "augment", augment, AUGMENTATIONS)


def augments(x: Float[Array, "batch ..."], augment: str) -> bool:
    """Whether `augmented` changes these inputs."""
    return augment != "none" and x.ndim == 4


def augmented(key: Key[Array, ""], x: Float[Array, "batch ..."], augment: str) -> Float[Array, "batch ..."]:
    """Shift every image of a batch by a random number of pixels in both directions.

    Args:
        key: decides.
        x: inputs; images are `[batch, height, width, channels]`.
        augment: `"shift"`; `"none"`; or `"auto"`: `"shift"` if the inputs have the rank of images.

    Returns:
        The inputs, shifted by up to 1 pixel for every `MAX_SHARE` of their height and width; what
        enters is a copy of the border.
    """
    if not augments(x, augment):
        return x
    batch, height, width, channels = x.shape
    rows, columns = -(-height // MAX_SHARE), -(-width // MAX_SHARE)
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode="edge")
    starts = jax.random.randint(key, (batch, 2), 0, 2 * jnp.array([rows, columns]) + 1)

    def crop(image: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, starts)
