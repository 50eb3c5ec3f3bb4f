"""The schema of a config: typed, mutable dataclasses, overridden by `--config.FIELD=VALUE`."""

import dataclasses
import re
from typing import Any

from autofusion_jax.arguments import Refused, Rule, integer, list_of, number, one_of
from configs.models import ModelConfig, model_identity
from data.splits import PROTOCOLS
from fields import RULE, field
from training.loop import TrainOptions

REFERENCES = (
    "model_a", "model_b", "teacher_confidence", "teacher_z", "teacher_em", "control_ridge_head",
    "control_random_network", "control_distillation", "real_labels_finetuning", "real_labels_training",
)  # fmt: skip
METHODS = (
    "interpolation",
    "weight_matching",
    "autofusion_paper",
    "autofusion",
    "prune_concat",
    "prune_concat_distill",
)


LARGEST_SEED = 100_000_000
"""So that what is made of seeds for networks of many roles has room in 32 bits."""


def _plain_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w+][\w+.-]*(/[\w+][\w+.-]*)*", value):
        raise Refused
    return value


FILE_NAME = Rule(_plain_name, ("a name of letters, digits and _ + - . that can be that of a folder",))


def path(what: str) -> Rule:
    """The rule of a path or name that must not be empty."""

    def take(value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise Refused
        return value

    return Rule(take, (f"the name of {what}",))


@dataclasses.dataclass
class DataConfig:
    """Attributes: which data set, a folder that has it, and how much is put aside.

    name: a registered data set, several joined by `+`, or one of your own: see `data.registry.load_dataset`.
    dir: folder with the original files; empty for AUTOFUSION_DATA_DIR.
    num_train: training images that are used at all, drawn at random after the validation images; 0 for all.
    num_validation: training images put aside.
    num_unlabelled: training images of all classes that the merge sees, without labels.
    """

    name: str = dataclasses.field(metadata={RULE: path("a data set")})
    dir: str = ""
    num_train: int = field(0, integer(least=0))
    num_validation: int = field(1000, integer(least=0))
    num_unlabelled: int = field(2000, integer(least=1))


@dataclasses.dataclass
class TaskConfig:
    """How the classes become tasks.

    labels: `"disjoint"`: the head has a logit for every class; `"shared"`: the k classes of each task
        are called 0 to k - 1, and all networks have one k-way head.
    sizes: how many classes each task has, such as (2, 8) or (3, 3, 4); empty for two halves. Of
        joined data sets each is a task.
    ratio: the unlabelled images that the merge sees are this many times as often of task A as the
        training images are: 5 makes two halves 5 : 1.
    """

    labels: str = field("disjoint", one_of(*PROTOCOLS))
    sizes: tuple[int, ...] = field((), list_of(integer(least=1)))
    ratio: float = field(1.0, number(above=0))


@dataclasses.dataclass
class MergeConfig:
    """Which methods to run and how.

    methods: registry names, separated by commas on the command line.
    references: rows beside them, of `REFERENCES`.
    repeats: merges of each endpoint pair, with different keys.
    epochs: passes of AutoFusion over the unlabelled images.
    """

    methods: tuple[str, ...] = METHODS
    references: tuple[str, ...] = REFERENCES
    repeats: int = field(5, integer(least=1))
    epochs: int = field(64, integer(least=1))


@dataclasses.dataclass
class EvaluateConfig:
    """The interpolation curve: its points, and how many test images it is measured on."""

    curve_points: int = field(50, integer(least=2))
    curve_images: int = field(10_000, integer(least=2))


@dataclasses.dataclass
class Config:
    """One experiment: endpoints trained on disjoint classes, and their merges.

    name: the name it is asked for by.
    seed: seed of the first pair: class split, initialisations, unlabelled sample, merges.
    pairs: endpoint pairs, of seeds `seed` to `seed + pairs - 1`.
    out_dir: folder of the results; empty for one named after config and time in `runs_dir`.
    runs_dir: where endpoint checkpoints are kept and found again.
    """

    name: str = dataclasses.field(metadata={RULE: FILE_NAME})
    data: DataConfig
    model: ModelConfig
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    merge: MergeConfig = dataclasses.field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    seed: int = field(0, integer(least=0, most=LARGEST_SEED))
    pairs: int = field(1, integer(least=1, most=LARGEST_SEED))
    out_dir: str = ""
    runs_dir: str = field("runs", path("a folder"))

    start_fields = ()
    """Further fields that trained networks depend on."""

    def method_options(self, method: str) -> dict[str, Any]:
        """Options of a method that are settings of the experiment: AutoFusion's epochs."""
        return {"epochs": self.merge.epochs} if method.startswith("autofusion") else {}


def in_paper_settings(config: Config) -> Config:
    """The config with the paper's settings of the merge (B.2, B.3): 64 epochs, 5 repeats, all test images."""
    config.name += "_paper"
    config.merge = MergeConfig()
    config.evaluate = EvaluateConfig()
    return config


def in_fast_settings(config: Config) -> Config:
    """The config with few images, epochs, pairs and keys, for a first look."""
    num_parts = config.data.name.count("+") + 1
    config.data.num_train = 4000 * num_parts
    config.data.num_unlabelled = min(config.data.num_unlabelled, 500 * num_parts)
    config.train.epochs = min(config.train.epochs, 2)
    config.train.segment = min(config.train.segment, 20)
    config.merge.epochs, config.merge.repeats, config.pairs = 2, 1, 1
    config.evaluate.curve_points, config.evaluate.curve_images = 5, 200
    return config


def split_commas(values: tuple[str, ...]) -> tuple[str, ...]:
    """Read `a,b` (one string, as flags give it) as `("a", "b")`, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def resolved(config: Config) -> dict[str, Any]:
    """All settings, to be written beside every output."""
    return {**dataclasses.asdict(config), "model": model_identity(config.model)}


def identity(config: Config) -> dict[str, Any]:
    """What makes two runs the same run: all fields but where files lie."""
    fields = resolved(config)
    for name in ("out_dir", "runs_dir"):
        fields.pop(name)
    fields["data"].pop("dir")
    return fields
