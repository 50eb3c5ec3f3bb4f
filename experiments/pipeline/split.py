"""The split of a seed: classes into tasks, images into training, validation and what merges see."""

import dataclasses

import numpy as np

from autofusion_jax.evaluation.accuracy import task_names
from autofusion_jax.validation import require
from configs.schema import Config
from data.dataset import Dataset
from data.splits import (
    head_classes,
    hold_out,
    keep,
    of_classes,
    sample,
    sample_unevenly,
    split_classes,
    task_labels,
    task_sizes,
)

MODEL_ROLES = tuple(f"model_{letter}" for letter in "abcdefghij")
ROLES = (*MODEL_ROLES[:2], "real_labels", *MODEL_ROLES[2:], "pretrained")
"""What networks are trained for: each of up to ten tasks, all of them, or a start. Their places are seeds."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One endpoint pair: everything that its seed draws.

    Attributes:
        number: from 0.
        seed: seed of the split, the initialisations, the unlabelled sample and the merges.
        classes: classes of each task, A first.
        tasks: the logits that stand for them; the classes themselves under disjoint labels.
        names: what the tasks are called.
        train: role -> indices of its training images.
        validation: indices of the images put aside.
        unlabelled: indices of the images that the merge sees.
        train_labels: the right logit of each training image `[n]`, or `[tasks, n]`: see `evaluate`.
        test_labels: likewise of each test image.
    """

    number: int
    seed: int
    classes: tuple[tuple[int, ...], ...]
    tasks: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    train: dict[str, np.ndarray]
    validation: np.ndarray
    unlabelled: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the networks to merge, one for each task."""
        return tuple(role for role in self.train if role in MODEL_ROLES)


def sizes_of_tasks(
    config: Config, num_classes: int, groups: tuple[tuple[int, ...], ...] = ()
) -> tuple[int, ...]:
    """How many classes each task has: those of each joined data set, or as the config says.

    Raises:
        ValueError: the config's sizes do not fit, or there are more tasks than roles.
    """
    if groups:
        wanted, got = "empty: each joined data set is a task", config.task.sizes
        require(not config.task.sizes, "task", "sizes", wanted, got)
        sizes = tuple(len(group) for group in groups)
    else:
        sizes = task_sizes(num_classes, config.task.sizes)
    most = len(MODEL_ROLES)
    require(len(sizes) <= most, "task", "sizes", f"of at most {most} tasks", sizes)
    return sizes


def names_of_tasks(dataset: Dataset, num_tasks: int) -> tuple[str, ...]:
    """What tasks are called: of three joined data sets or more their names, else `task_a` and so on."""
    joined = num_tasks > 2 and len(dataset.groups) == num_tasks
    return tuple(dataset.name.split("+")) if joined else task_names(num_tasks)


def head_size(config: Config, sizes: tuple[int, ...]) -> int:
    """How many logits the networks have."""
    return sum(sizes) if config.task.labels == "disjoint" else max(sizes)


def training_pool(config: Config, num_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training images that are used at all, and of those put aside."""
    pool, validation = hold_out(num_images, config.data.num_validation, seed)
    return (keep(pool, config.data.num_train, seed) if config.data.num_train else pool), validation


def draw_split(config: Config, dataset: Dataset, number: int) -> Split:
    """Draw the endpoint pair `number` of a config: a network for each task."""
    seed = config.seed + number
    labels, protocol = dataset.train_labels, config.task.labels
    pool, validation = training_pool(config, len(labels), seed)
    sizes = sizes_of_tasks(config, dataset.num_classes, dataset.groups)
    classes = dataset.groups or split_classes(dataset.num_classes, seed, sizes)
    train = {role: of_classes(labels, task, pool) for role, task in zip(MODEL_ROLES, classes)}
    return Split(
        number, seed, classes, head_classes(classes, protocol), names_of_tasks(dataset, len(classes)),
        {**train, "real_labels": pool}, validation, _draw_unlabelled(config, train, pool, seed),
        task_labels(labels, classes, protocol), task_labels(dataset.test_labels, classes, protocol),
    )  # fmt: skip


def _draw_unlabelled(config: Config, train: dict[str, np.ndarray], pool: np.ndarray, seed: int) -> np.ndarray:
    num, ratio = config.data.num_unlabelled, config.task.ratio
    if ratio == 1:
        return sample(pool, num, seed)
    first, *others = train.values()
    return sample_unevenly(first, np.sort(np.concatenate(others)), num, seed, ratio=ratio)
