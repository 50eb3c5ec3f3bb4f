"""The data of a config, its endpoint pairs, and the networks trained on them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from autofusion_jax.evaluation.accuracy import task_names
from autofusion_jax.models.registry import Model, build_model
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from configs.schema import Config, identity
from data.dataset import Dataset
from data.registry import load_dataset
from data.splits import (
    head_classes,
    head_labels,
    hold_out,
    keep,
    of_classes,
    sample,
    sample_unevenly,
    split_classes,
    task_labels,
    task_sizes,
)
from pipeline.networks import FINAL, Training, find_or_train

MODEL_ROLES = tuple(f"model_{letter}" for letter in "abcdefghij")
ROLES = (*MODEL_ROLES[:2], "real_labels", *MODEL_ROLES[2:], "pretrained")
"""What networks are trained for: each of up to ten tasks, all of them, or a start. Their places are seeds."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A config with its data and model in memory."""

    config: Config
    dataset: Dataset
    model: Model
    test_x: Array
    console: Console

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: the config but where files lie, and the data itself."""
        return {**identity(self.config), "data_sha256": self.dataset.sha256}

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many classes each task has."""
        return sizes_of_tasks(self.config, self.dataset.num_classes, self.dataset.groups)

    @property
    def checkpoint_root(self) -> Path:
        """The folder of all networks trained under the same data, model and training settings."""
        fields = self.identity
        kept = {name: fields[name] for name in ("data", "model", "train", "data_sha256")}
        kept |= {name: fields[name] for name in self.config.start_fields}
        del kept["data"]["num_unlabelled"]
        kept["task"] = {"labels": self.config.task.labels, "sizes": self.sizes}
        text = json.dumps(kept, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        name = f"{self.config.data.name}_{self.config.model.name}_{digest}"
        return Path(self.config.runs_dir) / "checkpoints" / name


@dataclasses.dataclass(frozen=True)
class Pair:
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


def to_inputs(images: np.ndarray) -> Array:
    """What networks see of uint8 images: floats in [0, 1]; of tokens these themselves."""
    return jnp.asarray(images, jnp.float32) / 255 if images.dtype == np.uint8 else jnp.asarray(images)


def open_setting(config: Config, console: Console) -> Setting:
    """Load the data and build the model of a config.

    Raises:
        ValueError: its tasks do not fit the data.
    """
    config.task.check()
    dataset = load_dataset(config.data.name, folder=config.data.dir, report=lambda line: console.print(line))
    for note in dataset.notes:
        console.print(f"[yellow]note:[/] {note}")
    options = dataclasses.asdict(config.model)
    sizes = sizes_of_tasks(config, dataset.num_classes, dataset.groups)
    model = build_model(
        options.pop("name"), dataset.train_images.shape[1:], num_classes=head_size(config, sizes), **options
    )
    return Setting(config, dataset, model, to_inputs(dataset.test_images), console)


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


def draw_pair(setting: Setting, number: int) -> Pair:
    """Draw the endpoint pair `number` of a config: a network for each task."""
    seed, dataset, config = setting.config.seed + number, setting.dataset, setting.config
    labels, protocol = dataset.train_labels, config.task.labels
    pool, validation = training_pool(config, len(labels), seed)
    classes = dataset.groups or split_classes(dataset.num_classes, seed, setting.sizes)
    train = {role: of_classes(labels, task, pool) for role, task in zip(MODEL_ROLES, classes)}
    return Pair(
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


def network_path(setting: Setting, pair: Pair, role: str) -> Path:
    """Where the finished network of a role is kept."""
    return setting.checkpoint_root / f"seed_{pair.seed}" / role / FINAL


def get_network(setting: Setting, pair: Pair, role: str, start: Params | None = None) -> tuple[Params, float]:
    """Load a finished network, or train it, going on from where an earlier run stopped.

    Args:
        setting: the config in memory.
        pair: the endpoint pair.
        role: one of `ROLES`.
        start: where its training starts; an initialisation of its own if left out.

    Returns:
        Its parameters, and the seconds that its training took.
    """
    place, indices, model = ROLES.index(role), pair.train[role], setting.model

    def prepare() -> Training:
        return Training(
            model.apply, initial_params(setting, pair, role) if start is None else start,
            setting.dataset.train_images[indices], head_labels(pair.train_labels)[indices],
            setting.config.train, 3 * pair.seed + place % 3 + 1_000_000 * (place // 3),
            train_fn=model.train_apply, spec=model.perm_spec,
        )  # fmt: skip

    folder, name = network_path(setting, pair, role).parent, f"{role} of seed {pair.seed}"
    return find_or_train(folder, name, prepare, network_meta(setting, pair, role), setting.console)


def network_meta(setting: Setting, pair: Pair, method: str, **more: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: enough to rebuild the network and to evaluate it."""
    return {
        "config": setting.config.name,
        "data": setting.config.data.name,
        "model": dataclasses.asdict(setting.config.model),
        "method": method,
        "seed": pair.seed,
        "tasks": [list(task) for task in pair.classes],
        "labels": setting.config.task.labels,
        **more,
    }


def initial_params(setting: Setting, pair: Pair, role: str) -> Params:
    """Where the training of a role starts."""
    return setting.model.init(jax.random.fold_in(jax.random.key(pair.seed), ROLES.index(role)))
