"""FusionBench's setting: networks fine-tuned from one start, each asked about the classes of its own task."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key
from rich.console import Console

from autofusion_jax.arguments import integer, number
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.networks import Network
from autofusion_jax.models.registry import Model
from autofusion_jax.types import Params
from configs.models import build
from data.corruptions import corrupt
from data.dataset import Dataset
from data.registry import load_dataset
from data.splits import hold_out, of_classes, sample
from fields import field
from pipeline.endpoints import Pair, Run, get_network, initial_params, to_inputs
from pipeline.split import MODEL_ROLES, Split
from tables.schema import TableConfig
from training.loop import TrainOptions

EXCLUDED = -1000.0
"""The logit of a class that was not asked about; those of a CLIP-style head lie within 100 of zero."""


@dataclasses.dataclass
class FusionConfig(TableConfig):
    """The settings of a table of FusionBench. `data.num_train` and `num_unlabelled` are shared evenly.

    pretrain: how the common start is trained.
    pretrain_images: images of each data set that it is trained on; 0: each network starts for itself.
    seen: data sets whose networks are merged.
    unseen: data sets that merged networks are measured on as well.
    test_images: images of each data set that accuracies are measured on.
    corruption: of the images that merges see and that accuracies are measured on; empty for none.
    sees_test: whether merges see test images, without labels, as in the paper; or training images.
    num_steps: steps of methods that adapt to unlabelled images.
    class_cosine: cosine between the vectors of any two classes, in [0, 1); see `mudsc_s1.MudscConfig`.
    """

    pretrain: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    pretrain_images: int = field(500, integer(least=0))
    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    test_images: int = field(2000, integer(least=1))
    corruption: str = ""
    sees_test: bool = False
    num_steps: int = field(300, integer(least=1))
    class_cosine: float = field(0.9, number(least=0, below=1))

    start_fields = ("pretrain", "pretrain_images", "class_cosine")

    def method_options(self, method: str) -> dict[str, Any]:
        """Also the steps of methods that adapt to unlabelled images."""
        steps = {"num_steps": self.num_steps} if method in ADAPTIVE else {}
        return {**super().method_options(method), **steps}

    def make_fast(self) -> None:
        """Also short pretraining and adaptation, and few test images."""
        super().make_fast()
        self.pretrain.epochs = min(self.pretrain.epochs, 10)
        self.pretrain.segment = min(self.pretrain.segment, 20)
        self.num_steps, self.test_images = 100, 500

    @property
    def datasets(self) -> tuple[str, ...]:
        """All data sets that networks are trained on."""
        return tuple(self.data.name.split("+"))


ADAPTIVE = ("adamerging", "concrete", "surgery", "wemoe", "pareto")


@dataclasses.dataclass(frozen=True)
class TaskModel(Model):
    """A network whose images say which task they ask about, in a channel of their own: see `marked`.

    As a user of CLIP gives the names of a task's classes, so logits of other tasks' classes are left out.

    Attributes:
        tasks: the classes of each task.
        scale: factor on the logits, by which class vectors are alike; see `FusionConfig.class_cosine`.
    """

    tasks: tuple[tuple[int, ...], ...] = ()
    scale: float = 1.0

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw fresh parameters."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, *self.input_shape))[..., :-1])

    def apply(self, params: Params, x: Array) -> Array:
        """The logits `[N, classes]`, those not asked about at `EXCLUDED`."""
        logits = self.scale * super().apply(params, x[..., :-1])
        asked = np.ones((len(self.tasks) + 1, logits.shape[-1]), bool)
        for mask, classes in zip(asked[1:], self.tasks):
            mask[:] = np.isin(np.arange(logits.shape[-1]), classes)
        mark = jnp.rint(255 * x[..., -1].max((1, 2))).astype(jnp.int32)
        return jnp.where(jnp.asarray(asked)[mark], logits, EXCLUDED)


def marked(images: np.ndarray, tasks: np.ndarray | int) -> np.ndarray:
    """Add a channel that holds the number of each image's task, from 1; 0 asks about all classes.

    Args:
        images: uint8 `[N, h, w, 1]`.
        tasks: numbers `[N]`, or one for all.
    """
    channel = np.broadcast_to(np.reshape(np.asarray(tasks, np.uint8), (-1, 1, 1, 1)), images.shape)
    return np.concatenate([images, channel], axis=-1)


@dataclasses.dataclass(frozen=True)
class FusionPair(Pair):
    """Fine-tuned networks, and where they started.

    Attributes:
        base: the start of all networks, or A's where each has its own.
        num_seen: how many of the pair's tasks the networks were fine-tuned on; they come first.
    """

    base: Params
    num_seen: int

    @property
    def start(self) -> Params:
        """The base of task vectors."""
        return self.base

    def train(self, role: str) -> tuple[Params, float]:
        """Also from the common start; on the tasks that are merged alone."""
        config: Any = self.run.config
        data = dataclasses.replace(config.data, name="+".join(self.split.names[: self.num_seen]))
        run = dataclasses.replace(self.run, config=dataclasses.replace(config, data=data))
        return get_network(run, self.split, role, self.base if config.pretrain_images else None)

    def evaluate(self, network: Network) -> dict[str, Any]:
        """Within its task, told which it is; over all classes, not told; and the means of both groups."""
        x, split = self.run.test_x, self.split
        asked, free = (
            evaluate(
                network.apply_fn, network.params, inputs, split.test_labels, split.tasks,
                num_heads=network.num_heads, names=split.names,
            )
            for inputs in (x, x.at[..., -1].set(0))
        )  # fmt: skip
        metrics = {name: (asked if name.endswith("_within") else free)[name] for name in free}
        within = [asked["tasks_within"][name] for name in split.names]
        groups = {"seen_within": within[: self.num_seen], "unseen_within": within[self.num_seen :]}
        return metrics | {name: float(np.mean(values)) for name, values in groups.items() if values}


@functools.lru_cache(1)
def _load(name: str, folder: str) -> tuple[Dataset, str]:
    """The joined data sets, marked, and their checksum."""
    data = load_dataset(name, folder=folder)
    task_of = np.repeat(np.arange(len(data.groups)) + 1, [len(group) for group in data.groups])
    train, test = (marked(images, task_of[labels]) for images, labels in (
        (data.train_images, data.train_labels), (data.test_images, data.test_labels)))  # fmt: skip
    return dataclasses.replace(data, train_images=train, test_images=test), data.sha256


def open_run(config: FusionConfig, console: Console) -> Run:
    """The joined data sets, and networks fine-tuned on each."""
    data, sha256 = _load(config.data.name, config.data.dir)
    shape = data.train_images.shape[1:]
    plain = build(config.model, (*shape[:2], 1), num_classes=data.num_classes)
    model = TaskModel(plain.module, shape, data.groups, (1 - config.class_cosine) ** 0.5)
    every = np.arange(len(data.test_labels))
    measured = np.concatenate([
        _at_most(config.test_images, _of(config, data, name, data.test_labels, every), seed=0)
        for name in (*config.seen, *config.unseen)
    ])  # fmt: skip
    images, labels = _corrupted(data.test_images[measured], config), data.test_labels[measured]
    opener = functools.partial(_open_pair, test_labels=labels)
    return Run(config, data, model, to_inputs(images), console, sha256, data.notes, opener)


def _of(config: FusionConfig, data: Dataset, name: str, labels: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which images are of a data set."""
    return of_classes(labels, data.groups[config.datasets.index(name)], among)


def _at_most(num: int, indices: np.ndarray, seed: int) -> np.ndarray:
    """Draw `num` of the indices, or all, where there are no more."""
    return sample(indices, min(num, len(indices)), seed)


def _corrupted(images: np.ndarray, config: FusionConfig) -> np.ndarray:
    if not config.corruption:
        return images
    return np.concatenate([corrupt(images[..., :1], config.corruption, seed=0), images[..., 1:]], axis=-1)


def _open_pair(run: Run, number: int, *, test_labels: np.ndarray) -> FusionPair:
    config: Any = run.config
    split = _draw(config, run.dataset, test_labels, number)
    base = initial_params(run, split, MODEL_ROLES[0])
    if config.pretrain_images:
        early = dataclasses.replace(run, config=dataclasses.replace(config, train=config.pretrain))
        base, _ = get_network(early, split, "pretrained")
    start = base if config.pretrain_images else None
    models, seconds = zip(*(get_network(run, split, role, start) for role in split.roles))
    if config.sees_test:
        x, labels = run.test_x[split.unlabelled], test_labels[split.unlabelled]
    else:
        images = run.dataset.train_images[split.unlabelled]
        x, labels = to_inputs(_corrupted(images, config)), split.train_labels[split.unlabelled]
    return FusionPair(run, split, models, seconds, run.model.perm_spec, x, labels, base, len(config.seen))


def _draw(config: FusionConfig, data: Dataset, test_labels: np.ndarray, number: int) -> Split:
    """Draw the images that networks are trained on and that merges see: as many of each data set."""
    seed, labels, num = config.seed + number, data.train_labels, len(config.datasets)
    pool, validation = hold_out(len(labels), config.data.num_validation, seed)
    own = {
        name: _at_most(config.data.num_train // num, _of(config, data, name, labels, pool), seed)
        for name in config.datasets
    }
    early = [indices[: config.pretrain_images] for indices in own.values()]
    train = {role: own[name] for role, name in zip(MODEL_ROLES, config.datasets) if name in config.seen}
    there = np.arange(len(test_labels)) if config.sees_test else pool
    shown = [
        _at_most(
            config.data.num_unlabelled // num,
            _of(config, data, name, test_labels if config.sees_test else labels, there),
            seed,
        )
        for name in config.seen
    ]
    classes = tuple(data.groups[config.datasets.index(name)] for name in (*config.seen, *config.unseen))
    everything = {"real_labels": np.concatenate(list(train.values())), "pretrained": np.concatenate(early)}
    return Split(
        number, seed, classes, classes, (*config.seen, *config.unseen), {**train, **everything}, validation,
        np.concatenate(shown), labels, test_labels,
    )  # fmt: skip
