"""FusionBench, Table 13: text classification by GPT-2, a head for each task. Here on bytes.

Command: `python experiments/reproduce.py --table=fusion_text`
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from autofusion_jax.arguments import integer
from autofusion_jax.evaluation.results import Summary
from autofusion_jax.models.heads import Backbone, ClassHead, NextToken
from autofusion_jax.types import Params
from configs.models import build, model_config
from configs.schema import DataConfig, MergeConfig
from data.dataset import Dataset
from data.registry import load_dataset
from data.text import LENGTH, PAD
from fields import field
from pipeline.endpoints import Run
from pipeline.headed_pair import HeadedPair
from pipeline.headed_training import TaskData, draw_roles, get_trained, key_of, open_headed
from pipeline.networks import Training
from pipeline.rows import Row
from reporting.tables import heading
from tables.fusion import INDIVIDUAL, PAPER, START
from tables.fusion_backbones import BACKBONE_ROWS, FAST, OPTIONS, BackboneConfig, drawn, seen, trained
from tables.schema import Panel, Table
from training.loop import TrainOptions
from training.losses import UNSCORED, token_cross_entropy

TASKS = ("man_language", "man_section", "fortunes")
BYTES = 256
ABOUT_TASKS = (
    "*Language*: in which of nine languages a passage of a manual page is. *Section*: from section 2, 3, 5 "
    "or 7 of the manual an English one is."
)


@dataclasses.dataclass
class TextConfig(BackboneConfig):
    """The settings of networks for text.

    tokens: bytes of each passage that networks read.
    """

    tokens: int = field(64, integer(least=1))

    start_fields = ("pretrain", "tokens")


def text_of_task(config: Any, data: Dataset, place: int, seed: int) -> tuple[np.ndarray, ...]:
    """Tokens and classes of a task, for training and test, in random order.

    Args:
        config: says how many, and of how many bytes.
        data: the joined data sets, one for each task.
        place: which of them.
        seed: decides which passages are trained on.
    """
    found = []
    classes = data.groups[place]
    each = config.data.num_train // len(data.groups)
    for texts, labels, num, draw in (
        (data.train_images, data.train_labels, each, seed),
        (data.test_images, data.test_labels, config.test_inputs, 0),
    ):
        mine = np.flatnonzero(np.isin(labels, classes))
        mine = mine[drawn(num, mine, draw)]
        found += [texts[mine, : config.tokens].astype(np.int32), labels[mine] - classes[0]]
    return tuple(found)


def next_tokens(tokens: np.ndarray) -> np.ndarray:
    """The token after each, `UNSCORED` where a passage has ended.

    Example:
        >>> next_tokens(np.array([[5, 6, 0]])).tolist()
        [[6, -1, -1]]
    """
    shifted = np.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    return np.where(shifted == PAD, UNSCORED, shifted)


def open_run(config: Any, console: Console) -> Run:
    """The joined data sets, and networks fine-tuned on each."""
    data = load_dataset(config.data.name, folder=config.data.dir, report=lambda line: console.print(line))
    sizes = {"num_classes": 1, "pad": PAD, "vocab": BYTES, "length": config.tokens}
    plain = build(config.model, (config.tokens,), **sizes)
    backbone = Backbone(plain.module, plain.input_shape)
    names = tuple(config.data.name.split("+"))

    def open_number(run: Run, number: int) -> HeadedPair:
        split = draw_roles(run, number, names)
        tasks = []
        for place, name in enumerate(names):
            x, y, test_x, test_y = text_of_task(config, data, place, split.seed)
            tasks.append(TaskData(name, ClassHead(len(data.groups[place])), x, y, test_x, test_y))
        language = NextToken(backbone)

        def prepare(seed: int) -> Training:
            tokens = np.concatenate([task.inputs for task in tasks])
            start: Params = backbone.init(key_of(split, "pretrained"))
            return Training(
                language.apply, start, tokens, next_tokens(tokens), config.pretrain, seed, token_cross_entropy
            )

        return open_headed(run, backbone, split, tasks, get_trained(run, split, "pretrained", prepare)[0])

    test_x = jnp.asarray(data.test_images)
    return Run(config, data, backbone, test_x, console, data.sha256, data.notes, open_number)


def get_config() -> TextConfig:
    return TextConfig(
        name="fusion_text",
        data=DataConfig("+".join(TASKS), num_train=18_000, num_validation=0, num_unlabelled=900),
        model=model_config("gpt2", dim=64, depth=2, num_heads=4, mlp_dim=128),
        train=TrainOptions(epochs=5, batch_size=64, learning_rate=2e-3, segment=50),
        pretrain=TrainOptions(epochs=2, batch_size=64, learning_rate=3e-3, segment=50),
        merge=MergeConfig(repeats=1),
        seed=100,
    )


def caption(config: Any, rows: Mapping[str, Summary]) -> list[str]:
    model = config.model
    return [
        f"Ours: a GPT-2 of dimension {model.dim}, {model.depth} blocks, {model.num_heads} heads and "
        f"{model.mlp_dim} hidden units, on the first {config.tokens} bytes of passages of up to {LENGTH}; no "
        "tokenizer. Pretrained to predict the next byte on the passages of all tasks "
        f"({trained(config.pretrain)}), then fine-tuned on each, up to "
        f"{config.data.num_train // len(TASKS):,} passages, with a head of its own "
        f"({trained(config.train)}). Only backbones are merged; every head stays as it is. "
        f"{seen(config, len(TASKS))}",
        f"{ABOUT_TASKS} *{heading('fortunes')}*: from which of eight collections of the fortune program. "
        f"Accuracy in percent on up to {config.test_inputs:,} test passages of each, of pages and quotations "
        "that no training passage is from.",
        f"The form is that of {PAPER}, Table 13 (GPT-2, seven tasks of GLUE), whose numbers are of other "
        f"tasks and networks and are not comparable. {OPTIONS} RegMean's alpha is 0.6, as there for GPT-2.",
    ]


SPECIALISTS = tuple(
    Row(f"model_{letter}", f"Fine-tuned on {heading(name)}") for letter, name in zip("abc", TASKS)
)
ROWS = (
    START,
    INDIVIDUAL,
    *SPECIALISTS,
    *(
        dataclasses.replace(entry, options={"alpha": 0.6}) if entry.name == "regmean" else entry
        for entry in BACKBONE_ROWS
    ),
)

TABLE = Table(
    name="fusion_text",
    title="FusionBench, Table 13: text classification, a head for each task (tiny GPT-2)",
    panels=(
        Panel(
            name="", title="", metrics=(*TASKS, "avg"), rows=ROWS, get_config=get_config,
            caption=caption, open_run=open_run, costs=True, fast=FAST,
            task_vectors=True,
        ),
    ),
)  # fmt: skip
