"""FusionBench, Table 4: one backbone for tasks of different kinds, each with its own head. Here on digits.

Command: `python experiments/reproduce.py --table=fusion_heads`
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from autofusion_jax.arguments import number
from autofusion_jax.evaluation.results import Summary
from autofusion_jax.models.heads import Backbone, ClassHead, HeadedNetwork, ImageHead
from autofusion_jax.types import Params
from configs.models import build, model_config
from configs.schema import DataConfig, MergeConfig
from data.dataset import Dataset
from data.registry import load_dataset
from data.splits import generator
from fields import field
from pipeline.endpoints import Run, to_inputs
from pipeline.headed_pair import HeadedPair
from pipeline.headed_training import TaskData, draw_roles, get_trained, key_of, open_headed
from pipeline.networks import Training
from pipeline.reference_rows import ENSEMBLE
from pipeline.rows import Row
from pipeline.split import Split
from reporting.tables import heading
from tables.fusion import INDIVIDUAL, PAPER, REGMEAN, START
from tables.fusion_backbones import (
    AVERAGE,
    BACKBONE_ROWS,
    FAST,
    OPTIONS,
    SCALED,
    BackboneConfig,
    drawn,
    seen,
    trained,
)
from tables.schema import Panel, Table
from training.loop import TrainOptions
from training.losses import cross_entropy

TASKS = ("classification", "reconstruction", "edges", "denoising")
PATCH = 4
"""Side of the square of pixels that the features at one place stand for: the network pools twice."""


@dataclasses.dataclass
class HeadsConfig(BackboneConfig):
    """The settings of networks with heads of their own.

    start_data: data set on whose classes the backbone is trained that all start from; empty: each
        starts from an initialisation of its own.
    noise: standard deviation of the noise that is to be removed, of pixels in [0, 1].
    """

    start_data: str = ""
    noise: float = field(0.3, number(least=0))

    start_fields = ("pretrain", "start_data", "noise")

    def make_fast(self) -> None:
        """Also fewer images."""
        super().make_fast()
        self.data.num_train = 4000


def edges(images: np.ndarray) -> np.ndarray:
    """The magnitude of Sobel's gradient of uint8 images `[N, h, w, 1]`, in [0, 1]; borders are repeated.

    Example:
        >>> step = np.zeros((1, 3, 4, 1), np.uint8)
        >>> step[:, :, 2:] = 255
        >>> edges(step)[0, 1, :, 0].round(3).tolist()
        [0.0, 0.707, 0.707, 0.0]
    """
    x = np.pad(images[..., 0].astype(np.float32) / 255, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    columns = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across, down = rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2]
    return (np.hypot(across, down) / 32**0.5)[..., None].astype(np.float32)


def noisy(images: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Images with Gaussian noise of a deviation in units of the whole range, cut to that range."""
    drawn = generator("noise", seed).standard_normal(images.shape, np.float32)
    return np.clip(np.rint(images + 255 * deviation * drawn), 0, 255).astype(np.uint8)


def task_data(config: HeadsConfig, data: Dataset, seed: int) -> list[TaskData]:
    """The four tasks on the same images."""
    kept = drawn(config.data.num_train, data.train_labels, seed)
    shown = drawn(config.test_inputs, data.test_labels, 0)
    images, test = data.train_images[kept], data.test_images[shown]
    clean, clean_test = (values.astype(np.float32) / 255 for values in (images, test))
    picture = ImageHead(images.shape[1:], PATCH)
    dirty = (noisy(values, config.noise, seed + place) for place, values in enumerate((images, test)))
    return [
        TaskData(
            "classification", ClassHead(data.num_classes), images, data.train_labels[kept], test,
            data.test_labels[shown],
        ),
        TaskData("reconstruction", picture, images, clean, test, clean_test),
        TaskData("edges", picture, images, edges(images), test, edges(test)),
        TaskData("denoising", picture, next(dirty), clean, next(dirty), clean_test),
    ]  # fmt: skip


def open_run(config: Any, console: Console) -> Run:
    """The images, and the data set that the start is trained on."""
    data, *others = [
        load_dataset(name, folder=config.data.dir, report=lambda line: console.print(line))
        for name in (config.data.name, config.start_data)
        if name
    ]
    plain = build(config.model, data.train_images.shape[1:], num_classes=1)
    backbone = Backbone(plain.module, plain.input_shape, channels=0 if others else config.model.widths[-1])

    def open_number(run: Run, number: int) -> HeadedPair:
        split = draw_roles(run, number, TASKS)
        base = get_start(run, backbone, split, others[0]) if others else None
        return open_headed(run, backbone, split, task_data(config, data, split.seed), base)

    notes = tuple(note for one in (data, *others) for note in one.notes)
    test_x = to_inputs(data.test_images)
    return Run(config, data, backbone, test_x, console, data.sha256, notes, open_number)


def get_start(run: Run, backbone: Backbone, split: Split, data: Dataset) -> Params:
    """The backbone of a network trained on the classes of another data set."""
    network = HeadedNetwork(backbone, ClassHead(data.num_classes))

    def prepare(seed: int) -> Training:
        config: Any = run.config
        kept = drawn(config.data.num_train, data.train_labels, split.seed)
        start = network.init(backbone.init(key_of(split, "pretrained")))
        labels = data.train_labels[kept]
        return Training(
            network.apply, start, data.train_images[kept], labels, config.pretrain, seed, cross_entropy
        )

    return get_trained(run, split, "pretrained", prepare)[0]["backbone"]


def get_config(name: str, start_data: str) -> HeadsConfig:
    return HeadsConfig(
        name=f"fusion_heads/{name}",
        data=DataConfig("mnist", num_train=8000, num_validation=0, num_unlabelled=1200),
        model=model_config("vgg", widths=(16, 32, 32), pool_after=(0, 1), norm="none"),
        train=TrainOptions(epochs=4, batch_size=64, learning_rate=2e-3, segment=50),
        pretrain=TrainOptions(epochs=3, batch_size=64, learning_rate=1e-3, segment=50),
        merge=MergeConfig(repeats=1),
        seed=100,
        start_data=start_data,
    )


def caption(config: Any, rows: Mapping[str, Summary]) -> list[str]:
    start = (
        f"All start from a backbone trained on the classes of {heading(config.start_data)}, "
        f"{trained(config.pretrain)}."
        if config.start_data
        else "Each starts from an initialisation of its own (MuDSC's protocol)."
    )
    widths = ", ".join(map(str, config.model.widths))
    return [
        f"Ours: {config.data.num_train:,} images of {heading(config.data.name)}; the backbone is a "
        f"{config.model.name} without its head, of widths {widths}. {start} Specialists, backbone and head "
        f"together: {trained(config.train)}. Heads are dense: one for the classes, and for images one of "
        f"{PATCH} x {PATCH} pixels at each place. Only backbones are merged; every head stays as it is. "
        f"{seen(config, len(TASKS))}",
        "Errors are mean absolute ones in grey levels of 255. *Edges*: the magnitude of Sobel's gradient. "
        f"*Denoising*: noise of standard deviation {config.noise:g}, of pixels in [0, 1]. {SCALED}",
        f"The form is that of {PAPER}, Table 4 (ResNet-50, three tasks of NYUv2), whose numbers are of other "
        f"tasks and networks and are not comparable. {OPTIONS}"
        if config.start_data
        else "*Aligned*: units of the other networks are brought to the first one's order by the method "
        "named; the features too, which each head then reads in an order of its own.",
    ]


SPECIALISTS = tuple(Row(f"model_{letter}", f"Specialist for {name}") for letter, name in zip("abcd", TASKS))
FROM_ONE_START = (START, INDIVIDUAL, *SPECIALISTS, *BACKBONE_ROWS)
ALIGNMENTS = {"weight_matching": "by weights", "activation_matching": "by activations"}
FROM_OWN_STARTS = (
    INDIVIDUAL,
    AVERAGE,
    *(
        dataclasses.replace(
            entry, name=f"{entry.name}_{align}", title=f"{entry.title}, aligned {words}", align=align
        )
        for entry in (AVERAGE, REGMEAN)
        for align, words in ALIGNMENTS.items()
    ),
    Row("c2m3", "C2M3", "c2m3"),
)


def _panel(name: str, title: str, entries: tuple[Row, ...], start_data: str, fast: tuple[str, ...]) -> Panel:
    return Panel(
        name=name, title=title, metrics=(*TASKS, "scaled"), rows=entries,
        get_config=functools.partial(get_config, name, start_data), caption=caption, open_run=open_run,
        costs=True, fast=fast, task_vectors=bool(start_data),
    )  # fmt: skip


TABLE = Table(
    name="fusion_heads",
    title="FusionBench, Table 4: tasks of different kinds, a head for each (MNIST)",
    panels=(
        _panel("one_start", "Fine-tuned from one backbone", FROM_ONE_START, "fashion_mnist", FAST),
        _panel("own_starts", "Each from an initialisation of its own", FROM_OWN_STARTS, "",
               (ENSEMBLE, "average", "average_activation_matching")),
    ),
    fast=("one_start",),
)  # fmt: skip
