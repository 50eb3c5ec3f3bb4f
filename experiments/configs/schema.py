"""The schema of a config: typed, mutable dataclasses, overridden by `--config.FIELD=VALUE`."""

import dataclasses
from typing import Any

from autofusion_jax.validation import require, unknown_name
from configs.models import ModelConfig, model_identity
from data.splits import PROTOCOLS
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


@dataclasses.dataclass
class DataConfig:
    """Attributes: which data set, a folder that has it, and how much is put aside.

    name: a registered data set, several joined by `+`, or one of your own: see `data.registry.load_dataset`.
    dir: folder with the original files; empty for AUTOFUSION_DATA_DIR.
    num_train: training images that are used at all, drawn at random after the validation images; 0 for all.
    num_validation: training images put aside.
    num_unlabelled: training images of all classes that the merge sees, without labels.
    """

    name: str
    dir: str = ""
    num_train: int = 0
    num_validation: int = 1000
    num_unlabelled: int = 2000


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

    labels: str = "disjoint"
    sizes: tuple[int, ...] = ()
    ratio: float = 1.0

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        if self.labels not in PROTOCOLS:
            raise unknown_name("task", "labels", self.labels, PROTOCOLS)
        require(self.ratio > 0, "task", "ratio", "> 0", self.ratio)


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
    repeats: int = 5
    epochs: int = 64


@dataclasses.dataclass
class EvaluateConfig:
    """The interpolation curve: its points, and how many test images it is measured on."""

    curve_points: int = 50
    curve_images: int = 10_000


@dataclasses.dataclass
class Config:
    """One experiment: endpoints trained on disjoint classes, and their merges.

    name: the name it is asked for by.
    seed: seed of the first pair: class split, initialisations, unlabelled sample, merges.
    pairs: endpoint pairs, of seeds `seed` to `seed + pairs - 1`.
    out_dir: folder of the results; empty for one named after config and time in `runs_dir`.
    runs_dir: where endpoint checkpoints are kept and found again.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    merge: MergeConfig = dataclasses.field(default_factory=MergeConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    seed: int = 0
    pairs: int = 1
    out_dir: str = ""
    runs_dir: str = "runs"

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
