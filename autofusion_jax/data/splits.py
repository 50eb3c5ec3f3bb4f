"""Seeded splits: classes into tasks, images into training and validation, unlabelled samples."""

import zlib

import numpy as np

from autofusion_jax.validation import require


def generator(purpose: str, seed: int) -> np.random.Generator:
    """A generator for one purpose: independent of the others, the same in every process."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), seed])


def split_classes(num_classes: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw two tasks of half the classes each, disjoint.

    Example:
        >>> a, b = split_classes(10, seed=0)
        >>> len(a), sorted(a + b) == list(range(10))
        (5, True)
    """
    order = generator("classes", seed).permutation(num_classes)
    half = num_classes // 2
    return tuple(sorted(map(int, order[:half]))), tuple(sorted(map(int, order[half:])))


def hold_out(num_images: int, num_validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw validation images; returns the sorted indices of training and validation images.

    Raises:
        ValueError: no training image would be left.
    """
    require(
        0 <= num_validation < num_images,
        "hold_out",
        "num_validation",
        f"in [0, {num_images})",
        num_validation,
    )
    order = generator("validation", seed).permutation(num_images)
    return np.sort(order[num_validation:]), np.sort(order[:num_validation])


def sample(indices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Draw `num` of `indices` without replacement, for use without labels.

    Raises:
        ValueError: there are fewer.
    """
    require(1 <= num <= len(indices), "sample", "num", f"in [1, {len(indices)}]", num)
    return generator("unlabelled", seed).permutation(indices)[:num]


def of_classes(labels: np.ndarray, classes: tuple[int, ...], indices: np.ndarray) -> np.ndarray:
    """Those of `indices` whose label is one of `classes`."""
    return indices[np.isin(labels[indices], classes)]
