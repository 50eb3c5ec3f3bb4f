"""The networks of a config: its data and model in memory, and its endpoint pairs, trained or found again."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from autofusion_jax.evaluation.accuracy import evaluate, task_masks
from autofusion_jax.evaluation.networks import Network
from autofusion_jax.merging.api import merge_many
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.models.registry import Model
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from configs.models import build, model_identity
from configs.schema import Config, identity
from data.dataset import Dataset
from data.registry import load_dataset
from data.splits import head_labels, sample
from fields import check_fields
from pipeline.networks import FINAL, Training, find_or_train
from pipeline.split import MODEL_ROLES, ROLES, Split, draw_split, head_size, sizes_of_tasks, training_pool

LABELLED_SEED = 3315
"""Draws the images with true labels that permutations of AutoFusion's figures are learned from (B.5)."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A config with its data and model in memory.

    Attributes:
        config: the settings.
        dataset: the data.
        model: the network.
        test_x: what accuracies are measured on.
        console: where progress is printed.
        data_sha256: checksum of the data.
        notes: what every report made from it must say.
        open_with: trains or finds the networks of the run's endpoint pair of a number.
    """

    config: Config
    dataset: Dataset
    model: Model
    test_x: Array
    console: Console
    data_sha256: str
    notes: tuple[str, ...]
    open_with: "Callable[[Run, int], Pair]"

    def pair(self, number: int) -> "Pair":
        """Train or find the networks of the endpoint pair of a number, from 0."""
        return self.open_with(self, number)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: the config but where files lie, and the data itself."""
        return {**identity(self.config), "data_sha256": self.data_sha256}

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
        data = re.sub(r"[^\w+.-]+", "_", self.config.data.name)
        name = f"{data}_{self.config.model.name}_{digest}"
        return Path(self.config.runs_dir) / "checkpoints" / name


@dataclasses.dataclass(frozen=True)
class Pair:
    """An endpoint pair, or more networks, trained.

    Attributes:
        run: its config, data and model.
        split: what its seed draws.
        models: parameters of the networks, one for each task, A first.
        seconds: what their training took.
        spec: their permutation spec.
        x: the images that merges see.
        x_labels: the right logit of each `[n]`, or `[tasks, n]`, as in `Split.train_labels`.
    """

    run: Run
    split: Split
    models: tuple[Params, ...]
    seconds: tuple[float, ...]
    spec: PermSpec
    x: Array
    x_labels: np.ndarray

    @property
    def params_a(self) -> Params:
        """The network of task A."""
        return self.models[0]

    @property
    def params_b(self) -> Params:
        """The network of task B."""
        return self.models[1]

    @functools.cached_property
    def start(self) -> Params:
        """Where the training of A started."""
        return initial_params(self.run, self.split, MODEL_ROLES[0])

    @functools.cached_property
    def y(self) -> np.ndarray:
        """The right logits of `x`, `[n]`: for rows with real labels, and for nothing else."""
        return head_labels(self.x_labels)

    def labelled(self, num: int) -> tuple[Array, Array]:
        """Training images with their true labels, drawn by `LABELLED_SEED`; all if there are fewer."""
        dataset = self.run.dataset
        pool, _ = training_pool(self.run.config, len(dataset.train_labels), self.split.seed)
        chosen = sample(pool, min(num, len(pool)), LABELLED_SEED)
        return to_inputs(dataset.train_images[chosen]), jnp.asarray(dataset.train_labels[chosen])

    @functools.cached_property
    def own_inputs(self) -> tuple[Array, ...]:
        """Those of `x` that are of each network's task."""
        return tuple(self.x[mask] for mask in task_masks(self.x_labels, self.split.tasks[: len(self.models)]))

    def own_options(self, method: str | None) -> dict[str, Any]:
        """Options that give a method the inputs of each network apart."""
        return {"inputs": self.own_inputs}

    @functools.cached_property
    def pseudo_labels(self) -> Array:
        """What the EM ensemble of the endpoints says of `x`, probabilities `[n, classes]`."""
        task = MergeTask(self.models, self.spec, self.spec.apply_fn, self.x)
        return find_targets("merge", task, pseudo_labels="em", zeta=0.0).probs

    @functools.cached_property
    def average(self) -> Params:
        """The activation-matched average of the endpoints, where distillation and fine-tuning start."""
        return merge_many(self.models, self.spec, self.x, method="activation_matching").params

    def train(self, role: str) -> tuple[Params, float]:
        """Train or find the network of a role that is none of `models`, and the seconds that it took."""
        return get_network(self.run, self.split, role)

    def evaluate(self, network: Network) -> dict[str, Any]:
        """The accuracy of a network on the test images."""
        split = self.split
        return evaluate(
            network.apply_fn, network.params, self.run.test_x, split.test_labels, split.tasks,
            num_heads=network.num_heads, names=split.names,
        )  # fmt: skip


def open_run(config: Config, console: Console) -> Run:
    """Load the data and build the model of a config.

    Raises:
        ValueError: a setting is not what it must be, or does not fit the data.
    """
    check_fields("--config", config)
    dataset = load_dataset(config.data.name, folder=config.data.dir, report=lambda line: console.print(line))
    for note in dataset.notes:
        console.print(f"[yellow]note:[/] {note}")
    sizes = sizes_of_tasks(config, dataset.num_classes, dataset.groups)
    model = build(config.model, dataset.train_images.shape[1:], num_classes=head_size(config, sizes))
    test_x = to_inputs(dataset.test_images)
    return Run(config, dataset, model, test_x, console, dataset.sha256, dataset.notes, open_pair)


def open_pair(run: Run, number: int) -> Pair:
    """Draw an endpoint pair, and train or find its networks."""
    split = draw_split(run.config, run.dataset, number)
    models, seconds = zip(*(get_network(run, split, role) for role in split.roles))
    x = to_inputs(run.dataset.train_images[split.unlabelled])
    labels = split.train_labels[..., split.unlabelled]
    return Pair(run, split, models, seconds, run.model.perm_spec, x, labels)


def to_inputs(images: np.ndarray) -> Array:
    """What networks see of uint8 images: floats in [0, 1]; of tokens these themselves."""
    return jnp.asarray(images, jnp.float32) / 255 if images.dtype == np.uint8 else jnp.asarray(images)


def network_path(run: Run, split: Split, role: str) -> Path:
    """Where the finished network of a role is kept."""
    return run.checkpoint_root / f"seed_{split.seed}" / role / FINAL


def get_network(run: Run, split: Split, role: str, start: Params | None = None) -> tuple[Params, float]:
    """Load a finished network, or train it, going on from where an earlier run stopped.

    Args:
        run: the config in memory.
        pair: the endpoint pair.
        role: one of `ROLES`.
        start: where its training starts; an initialisation of its own if left out.

    Returns:
        Its parameters, and the seconds that its training took.
    """
    place, indices, model = ROLES.index(role), split.train[role], run.model

    def prepare() -> Training:
        return Training(
            model.apply, initial_params(run, split, role) if start is None else start,
            run.dataset.train_images[indices], head_labels(split.train_labels)[indices],
            run.config.train, 3 * split.seed + place % 3 + 1_000_000 * (place // 3),
            train_fn=model.train_apply, spec=model.perm_spec,
        )  # fmt: skip

    folder, name = network_path(run, split, role).parent, f"{role} of seed {split.seed}"
    return find_or_train(folder, name, prepare, network_meta(run, split, role), run.console)


def network_meta(run: Run, split: Split, method: str, **more: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: enough to rebuild the network and to evaluate it."""
    fields = identity(run.config)
    return {
        "config": run.config.name,
        "data": run.config.data.name,
        "model": model_identity(run.config.model),
        "method": method,
        "seed": split.seed,
        "tasks": [list(task) for task in split.classes],
        "labels": run.config.task.labels,
        "start": {name: fields[name] for name in run.config.start_fields},
        **more,
    }


def initial_params(run: Run, split: Split, role: str) -> Params:
    """Where the training of a role starts."""
    return run.model.init(jax.random.fold_in(jax.random.key(split.seed), ROLES.index(role)))
