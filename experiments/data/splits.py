"""Seeded splits: classes into tasks, images into training and validation, unlabelled samples."""

import zlib

import numpy as np

from autofusion_jax.validation import require, unknown_name

PROTOCOLS = ("disjoint", "shared")
"""How tasks share a head: a logit for every class, or the first k logits for the k classes of each task."""


def generator(purpose: str, seed: int) -> np.random.Generator:
    """A generator for one purpose: independent of the others, the same in every process."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), seed])


def task_sizes(num_classes: int, sizes: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The number of classes of each task: `sizes`, or two halves.

    Raises:
        ValueError: fewer than two tasks, an empty one, or a wrong sum.

    Example:
        >>> task_sizes(10), task_sizes(10, (3, 3, 4))
        ((5, 5), (3, 3, 4))
    """
    sizes = tuple(sizes) or (num_classes // 2, num_classes - num_classes // 2)
    good = len(sizes) >= 2 and min(sizes) >= 1 and sum(sizes) == num_classes
    require(good, "split_classes", "sizes", f"two or more, each >= 1, with sum {num_classes}", sizes)
    return sizes


def split_classes(num_classes: int, seed: int, sizes: tuple[int, ...] = ()) -> tuple[tuple[int, ...], ...]:
    """Draw disjoint tasks, each as the sorted tuple of its classes.

    Args:
        num_classes: number of classes, from 0.
        seed: decides.
        sizes: how many classes each task has; by default two halves.

    Raises:
        ValueError: as `task_sizes`.

    Example:
        >>> a, b = split_classes(10, seed=0)
        >>> len(a), sorted(a + b) == list(range(10))
        (5, True)
    """
    order = generator("classes", seed).permutation(num_classes)
    ends = np.cumsum(task_sizes(num_classes, sizes))
    return tuple(tuple(sorted(map(int, part))) for part in np.split(order, ends[:-1]))


def head_classes(tasks: tuple[tuple[int, ...], ...], protocol: str) -> tuple[tuple[int, ...], ...]:
    """The logits that stand for each task's classes.

    Args:
        tasks: the classes of each task.
        protocol: `"disjoint"`: one logit for every class; `"shared"`: the first k logits stand for
            the k classes of every task.

    Example:
        >>> head_classes(((1, 4), (2, 7)), "shared")
        ((0, 1), (0, 1))
    """
    _check_protocol(protocol)
    return tasks if protocol == "disjoint" else tuple(tuple(range(len(task))) for task in tasks)


def task_labels(labels: np.ndarray, tasks: tuple[tuple[int, ...], ...], protocol: str) -> np.ndarray:
    """The index of the right logit for each image.

    Args:
        labels: classes `[n]`.
        tasks: the classes of each task.
        protocol: as in `head_classes`.

    Returns:
        `[n]` under `"disjoint"`; under `"shared"` `[tasks, n]`: the place of the image's class
        in each task, -1 where it is none of its.

    Example:
        >>> task_labels(np.array([7, 1, 2]), ((1, 4), (2, 7)), "shared").tolist()
        [[-1, 0, -1], [1, -1, 0]]
    """
    _check_protocol(protocol)
    if protocol == "disjoint":
        return labels
    rows = np.full((len(tasks), len(labels)), -1, np.int32)
    for row, task in zip(rows, tasks):
        for place, label in enumerate(task):
            row[labels == label] = place
    return rows


def head_labels(labels: np.ndarray) -> np.ndarray:
    """The right logit of each image `[n]`, from `task_labels` of tasks that have no image in common."""
    return labels if labels.ndim == 1 else labels.max(0)


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise unknown_name("task_labels", "protocol", protocol, PROTOCOLS)


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


def keep(indices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Draw the `num` of `indices` that are used at all, sorted.

    Raises:
        ValueError: there are fewer.
    """
    require(1 <= num <= len(indices), "keep", "num", f"in [1, {len(indices)}]", num)
    return np.sort(generator("train", seed).permutation(indices)[:num])


def sample(indices: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Draw `num` of `indices` without replacement, for use without labels.

    Raises:
        ValueError: there are fewer.
    """
    require(1 <= num <= len(indices), "sample", "num", f"in [1, {len(indices)}]", num)
    return generator("unlabelled", seed).permutation(indices)[:num]


def sample_unevenly(
    preferred: np.ndarray, others: np.ndarray, num: int, seed: int, *, ratio: float
) -> np.ndarray:
    """Draw `num` of two groups, in random order: one group's members come up `ratio` times as often.

    Of equally large groups `ratio / (1 + ratio)` of the draws are of the preferred one.

    Raises:
        ValueError: a group has too few members.

    Example:
        >>> drawn = sample_unevenly(np.arange(50), np.arange(50, 100), 12, seed=0, ratio=5.0)
        >>> int((drawn < 50).sum())
        10
    """
    share = ratio * len(preferred) / (ratio * len(preferred) + len(others))
    wanted = round(num * share)
    for group, count, name in ((preferred, wanted, "preferred"), (others, num - wanted, "others")):
        require(
            count <= len(group), "sample_unevenly", name, f"{count} or more for ratio {ratio:g}", len(group)
        )
    draw = generator("unlabelled", seed)
    parts = [draw.permutation(preferred)[:wanted], draw.permutation(others)[: num - wanted]]
    return draw.permutation(np.concatenate(parts))


def of_classes(labels: np.ndarray, classes: tuple[int, ...], indices: np.ndarray) -> np.ndarray:
    """Those of `indices` whose label is one of `classes`."""
    return indices[np.isin(labels[indices], classes)]
