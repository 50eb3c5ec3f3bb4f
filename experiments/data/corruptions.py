"""Corruptions of images, after ImageNet-C, at one severity each: test sets of another distribution."""

import functools
import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from autofusion_jax.validation import require, unknown_name
from data.splits import generator

Images = Float[np.ndarray, "N h w c"]
"""From 0 to 1."""

BLUR_LENGTH = 11
"""Pixels along which motion blur spreads every pixel."""
IMPULSES = 0.04
"""Share of the pixels that impulse noise makes black or white."""
NOISE_STD = 0.1
"""Standard deviation of Gaussian noise, of a range of 1."""
PIXELATED = 0.2
"""Share of the height and width that is left of them in pixels."""
DROPS_SIZE, DROPS_LEVEL, DROPS_OPACITY = 1.0, 0.8, 0.8
"""Spatter: standard deviation of the blur in pixels, from which value on there is a drop, how white it is."""
CONTRAST = 0.65
"""What is left of the distance from the image's mean."""
JPEG_QUALITY = 5


def _motion_blur(images: Images, rng: np.random.Generator) -> Images:
    """Each image along a line of its own direction."""
    blurred = np.empty_like(images)
    for target, image, angle in zip(blurred, images, rng.uniform(0, 180, len(images))):
        kernel = _line(angle)
        for channel in range(image.shape[-1]):
            target[..., channel] = ndimage.convolve(image[..., channel], kernel, mode="nearest")
    return blurred


def _line(degrees: float) -> Float[np.ndarray, "size size"]:
    """A line of sum 1 through the middle, at an angle."""
    kernel = np.zeros((BLUR_LENGTH, BLUR_LENGTH))
    kernel[BLUR_LENGTH // 2] = 1
    kernel = np.clip(ndimage.rotate(kernel, degrees, reshape=False, order=1), 0, None)
    return kernel / kernel.sum()


def _impulse_noise(images: Images, rng: np.random.Generator) -> Images:
    draw = rng.random(images.shape)
    return np.where(draw < IMPULSES, (draw < IMPULSES / 2).astype(images.dtype), images)


def _gaussian_noise(images: Images, rng: np.random.Generator) -> Images:
    return images + rng.normal(0, NOISE_STD, images.shape)


def _pixelate(images: UInt8[np.ndarray, "N h w c"], rng: np.random.Generator) -> UInt8[np.ndarray, "N h w c"]:
    def one(image: Image.Image) -> Image.Image:
        small = (max(1, round(image.width * PIXELATED)), max(1, round(image.height * PIXELATED)))
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)

    return _by_pillow(images, one)


def _spatter(images: Images, rng: np.random.Generator) -> Images:
    """White drops: where blurred noise, brought to the range 0 to 1, is high."""
    noise = ndimage.gaussian_filter(rng.normal(size=images.shape[:3]), (0, DROPS_SIZE, DROPS_SIZE))
    low, high = (extreme(noise, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    drops = ((noise - low) / (high - low) > DROPS_LEVEL)[..., None] * DROPS_OPACITY
    return images * (1 - drops) + drops


def _contrast(images: Images, rng: np.random.Generator) -> Images:
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + CONTRAST * (images - mean)


def _jpeg(images: UInt8[np.ndarray, "N h w c"], rng: np.random.Generator) -> UInt8[np.ndarray, "N h w c"]:
    def one(image: Image.Image) -> Image.Image:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=JPEG_QUALITY)
        return Image.open(stored)

    return _by_pillow(images, one)


def _by_pillow(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    changed = np.empty_like(images)
    for target, image in zip(changed, images):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        target[...] = np.asarray(change(picture)).reshape(image.shape)
    return changed


def _in_floats(change: Callable[[Images, np.random.Generator], Images]) -> Callable[..., np.ndarray]:
    """Run on values from 0 to 1 what is then clipped and rounded."""

    @functools.wraps(change)
    def run(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.rint(255 * np.clip(change(images / 255, rng), 0, 1)).astype(np.uint8)

    return run


CORRUPTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "motion_blur": _in_floats(_motion_blur),
    "impulse_noise": _in_floats(_impulse_noise),
    "gaussian_noise": _in_floats(_gaussian_noise),
    "pixelate": _pixelate,
    "spatter": _in_floats(_spatter),
    "contrast": _in_floats(_contrast),
    "jpeg": _jpeg,
}
"""The seven of FusionBench, by name."""


def corrupt(images: UInt8[np.ndarray, "N h w c"], name: str, *, seed: int) -> UInt8[np.ndarray, "N h w c"]:
    """Corrupt images, each in its own way where chance has a part.

    Args:
        images: of one channel or three.
        name: a key of `CORRUPTIONS`. The severity of each is a constant of this module, chosen for
            images of 28 x 28 pixels.
        seed: decides, with the name.

    Raises:
        ValueError: unknown name, or images of another form.

    References:
        Hendrycks, Dietterich: Benchmarking neural network robustness to common corruptions and
        perturbations, ICLR 2019.

    Example:
        >>> images = np.full((1, 4, 4, 1), 100, np.uint8)
        >>> bool((corrupt(images, "contrast", seed=0) == images).all())  # there is none to lose
        True
    """
    if name not in CORRUPTIONS:
        raise unknown_name("corrupt", "corruption", name, CORRUPTIONS)
    good = images.ndim == 4 and images.shape[-1] in (1, 3) and images.dtype == np.uint8
    require(good, "corrupt", "images", "uint8 [N, h, w, 1 or 3]", f"{images.dtype}{list(images.shape)}")
    return CORRUPTIONS[name](images, generator(f"corrupt {name}", seed))
