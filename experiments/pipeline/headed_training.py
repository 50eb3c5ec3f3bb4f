"""Specialists with heads of their own, trained from one start or from several."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.models.heads import Backbone, ClassHead, Head, HeadedNetwork
from autofusion_jax.types import Params
from pipeline.endpoints import Run, network_path, to_inputs
from pipeline.headed_pair import HeadedPair, HeadedTask, open_tasks
from pipeline.networks import Training, find_or_train
from pipeline.split import MODEL_ROLES, ROLES, Split
from training.loop import TrainOptions
from training.losses import Loss, cross_entropy, squared_error


@dataclasses.dataclass(frozen=True)
class TaskData:
    """What a specialist is trained and measured on.

    Attributes:
        name: what tables call the task.
        head: what kind of answers it gives.
        inputs: uint8 images or int32 tokens, `[N, ...]`.
        targets: classes `[N]`, or images in [0, 1].
        test_inputs: likewise `[M, ...]`.
        test_targets: likewise.
    """

    name: str
    head: Head
    inputs: np.ndarray
    targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray

    @property
    def loss(self) -> Loss:
        """Cross-entropy of classes, squared error of images."""
        return cross_entropy if isinstance(self.head, ClassHead) else squared_error

    @property
    def average(self) -> np.ndarray:
        """The most frequent class, or the mean image."""
        if isinstance(self.head, ClassHead):
            return np.asarray(np.bincount(self.targets).argmax())
        return self.targets.mean(0)


def _prepare(
    options: TrainOptions, network: HeadedNetwork, data: TaskData, base: Params | None,
    key: Key[Array, ""], seed: int,
) -> Training:  # fmt: skip
    start = network.init(network.backbone.init(key) if base is None else base)
    return Training(network.apply, start, data.inputs, data.targets, options, seed, data.loss)


def draw_roles(run: Run, number: int, names: tuple[str, ...]) -> Split:
    """The set of networks `number` of a config, one for each task; their inputs are drawn elsewhere."""
    nothing, data = np.zeros(0, np.int64), run.dataset
    roles = dict.fromkeys(MODEL_ROLES[: len(names)], nothing)
    return Split(
        number, run.config.seed + number, (), (), names, roles, nothing, nothing,
        data.train_labels, data.test_labels,
    )  # fmt: skip


def key_of(split: Split, role: str) -> Key[Array, ""]:
    """What decides the initialisation of a network."""
    return jax.random.fold_in(jax.random.key(split.seed), ROLES.index(role))


def get_trained(
    run: Run, split: Split, role: str, prepare: Callable[[int], Training]
) -> tuple[Params, float]:
    """Find or train the network of a role; `prepare` takes the seed of the order of its inputs."""
    seed = len(ROLES) * split.seed + ROLES.index(role)
    meta = {"config": run.config.name, "seed": split.seed, "role": role}
    folder, name = network_path(run, split, role).parent, f"{role} of seed {split.seed}"
    return find_or_train(folder, name, lambda: prepare(seed), meta, run.console)


def open_headed(
    run: Run, backbone: Backbone, split: Split, data: Sequence[TaskData], base: Params | None
) -> HeadedPair:
    """Train or find a specialist for each task, backbone and head together.

    Args:
        run: the config in memory; its `model` is the backbone.
        backbone: the backbone of all.
        split: gives the seed.
        data: one for each specialist.
        base: the backbone where all start; None: each starts from an initialisation of its own.
    """
    share = run.config.data.num_unlabelled // len(data)
    models, seconds, tasks = [], [], []
    for one, role in zip(data, MODEL_ROLES):
        network = HeadedNetwork(backbone, one.head)
        prepare = functools.partial(_prepare, run.config.train, network, one, base, key_of(split, role))
        trained, took = get_trained(run, split, role, prepare)
        models.append(trained["backbone"])
        seconds.append(took)
        tasks.append(
            HeadedTask(
                one.name, to_inputs(one.inputs[:share]), network, trained["head"],
                to_inputs(one.test_inputs), one.test_targets, one.average,
            )
        )  # fmt: skip
    x = jnp.concatenate([task.x for task in tasks])
    return open_tasks(run, split, models, seconds, tasks, models[0] if base is None else base, x)
