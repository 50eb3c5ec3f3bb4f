"""FusionBench, Table 3, at a size for two CPU cores: four tasks, all methods of the catalogue.

Command: `python experiments/reproduce.py --table=fusion --data_dir=DIR`
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from autofusion_jax.evaluation.results import Summary
from configs import tiny_vit_4tasks
from configs.models import model_identity
from configs.schema import MergeConfig
from pipeline.reference_rows import ENSEMBLE
from pipeline.rows import Row
from reporting.tables import heading
from tables.autofusion import SEED
from tables.fusion_source import FusionConfig, open_run
from tables.schema import Panel, Table
from training.loop import TrainOptions

PAPER = "FusionBench: A Comprehensive Benchmark of Deep Model Fusion (arXiv 2406.03280)"
DATASETS = tiny_vit_4tasks.DATASETS
SEEN, UNSEEN = DATASETS[:4], DATASETS[4:]


def get_config(name: str = "fusion", **changes: Any) -> FusionConfig:
    """The settings of a panel.

    Args:
        name: what it is called.
        changes: other fields than those of the headline.
    """
    base = tiny_vit_4tasks.get_config()
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    fields |= {
        "name": name, "seed": SEED, "pairs": 3, "merge": MergeConfig(repeats=1), "seen": SEEN,
        "pretrain": TrainOptions(epochs=20, batch_size=32, learning_rate=3e-3), "pretrain_images": 800,
    }  # fmt: skip
    return FusionConfig(**{**fields, **changes})


def row(name: str, title: str, method: str = "", /, **options: Any) -> Row:
    """A row whose method may read the base, but no inputs."""
    return Row(name, title, method or name, options, from_start=True)


def reading(name: str, title: str, method: str = "", /, **options: Any) -> Row:
    """A row whose method reads unlabelled images of each network's task apart."""
    return dataclasses.replace(row(name, title, method, **options), own_inputs=True)


START = Row("start", "Pre-trained")
INDIVIDUAL = Row(ENSEMBLE, "Individual: each network for its own task")
FISHER = reading("fisher", "Fisher", predictions="argmax")
REGMEAN = reading("regmean", "RegMean")
TASK_ARITHMETIC = row("task_arithmetic", "Task arithmetic")
TIES = row("ties", "TIES", scale=0.3, merge="sum")
ADAMERGING = reading("adamerging", "AdaMerging, layer-wise")
WEMOE = reading("wemoe", "WEMoE")
AS_PUBLISHED = (FISHER, REGMEAN, TASK_ARITHMETIC, TIES, ADAMERGING, WEMOE)
"""The methods of Tables 5, 6 and 17."""

ROWS = (
    START,
    *(Row(f"model_{letter}", f"Fine-tuned on {heading(name)}") for letter, name in zip("abcd", SEEN)),
    INDIVIDUAL,
    Row("real_labels_training", "Traditional multi-task learning"),
    row("simple_ensemble", "Simple ensemble"),
    row("max_model", "Max-model predictor"),
    row("confidence_ensemble", "Confidence ensemble"),
    row("average", "Simple average"),
    row("multislerp", "Multislerp"),
    row("karcher", "Karcher mean"),
    row("model_stock", "Model stock"),
    FISHER,
    REGMEAN,
    TASK_ARITHMETIC,
    TIES,
    row("dare", "DARE"),
    row("breadcrumbs", "Breadcrumbs"),
    row("consensus", "Consensus"),
    row("magmax", "MagMax"),
    row("sce", "SCE"),
    row("iso_c", "Iso-C"),
    row("iso_cts", "Iso-CTS"),
    row("tsv", "TSV-M"),
    row("wudi", "WUDI"),
    reading("adamerging_task", "AdaMerging, task-wise", "adamerging", level="task"),
    ADAMERGING,
    reading("concrete_task", "Concrete task arithmetic", "concrete", level="task"),
    reading("concrete", "Concrete AdaMerging"),
    reading("surgery", "Surgery over task arithmetic"),
    reading("surgery_adamerging", "Surgery over AdaMerging", "surgery", method="adamerging"),
    WEMOE,
    reading("pareto", "PWE-MoE, linear scalarisation"),
    reading("pareto_epo", "PWE-MoE, exact Pareto search", "pareto", variant="epo"),
    row("smile", "SMILE"),
    row("weight_matching", "Git Re-Basin"),
    row("zipit", "ZipIt"),
    row("autofusion", "AutoFusion"),
    row("prune_concat", "prune_concat"),
)
FAST = (
    "start", ENSEMBLE, "real_labels_training", "simple_ensemble", "average", "fisher", "regmean",
    "task_arithmetic", "ties", "dare", "adamerging", "wemoe",
)  # fmt: skip


def within(names: tuple[str, ...]) -> tuple[str, ...]:
    """The accuracies of tasks within their own classes, as columns."""
    return tuple(f"{name}_within" for name in names)


def about_networks(config: FusionConfig) -> str:
    """What the networks are, and how they were trained."""
    model, train, start = config.model, config.train, config.pretrain
    shape = ", ".join(f"{name} {value}" for name, value in model_identity(model).items() if name != "name")
    each = config.data.num_train // len(config.datasets)
    began = (
        f"One network is pretrained on {config.pretrain_images:,} images of each of "
        f"{', '.join(map(heading, config.datasets))}, for {start.epochs} epochs by {start.optimizer} at "
        f"{start.learning_rate:g}; from it"
        if config.pretrain_images
        else "From an initialisation of its own"
    )
    return (
        f"Ours: a vision transformer ({shape}) on 28 x 28 grey pixels, whose logits are scaled cosines with "
        f"one fixed random unit vector for each of {10 * len(config.datasets)} classes, any two with cosine "
        f"{config.class_cosine:g}, in the place of CLIP's text embeddings. {began} a network is fine-tuned "
        f"for each task on up to {each:,} images, {train.epochs} epochs by {train.optimizer} at "
        f"{train.learning_rate:g}, batches of {train.batch_size}."
    )


def about_inputs(config: FusionConfig) -> str:
    """What is measured, and what merges see."""
    each = config.data.num_unlabelled // len(config.datasets)
    where = "test images, those that are measured on," if config.sees_test else "training images"
    corrupted = " They are corrupted as the test images are." if config.corruption else ""
    return (
        f"Mean ± standard deviation over {config.pairs} seed(s), {config.seed} and up; accuracy on "
        f"{config.test_images:,} test images of each task or all there are, *within* the ten classes of the "
        f"task, which the network is told, as CLIP is evaluated. Methods that need inputs get up to "
        f"{each:,} {where} of each task without labels, a batch for each network where they can, and "
        f"entropies are over the task's classes.{corrupted} Those that adapt take {config.num_steps:,} steps."
    )


def caption(*about: str) -> Callable[[FusionConfig, Mapping[str, Summary]], list[str]]:
    """A caption: the networks, the images, then what is to be said of this table."""
    return lambda config, rows: [about_networks(config), about_inputs(config), *about]


ABOUT = (
    f"The form is that of {PAPER}, Table 3: CLIP-ViT-B/32 and eight tasks there, so no number of it is "
    "comparable. Methods have their default options, but for TIES, a sum with the paper's scale, 0.3, and "
    "Fisher, which judges a network by its predicted classes. "
    "*Joint* is by the argmax over all classes of all tasks, which nothing was trained for: "
    "networks learn within their task's classes. *Individual* and surgery have one head for each task. "
    "The paper adapts to the test images themselves; here no method sees them.",
)

TABLE = Table(
    name="fusion",
    title="FusionBench, Table 3: methods on networks fine-tuned from one start (tiny ViT)",
    panels=(
        Panel(
            name="",
            title="",
            metrics=(*within(SEEN), "avg_within", "joint"),
            rows=ROWS,
            get_config=get_config,
            open_run=open_run,
            caption=caption(*ABOUT),
            costs=True,
            fast=FAST,
            radar=(
                "start",
                ENSEMBLE,
                "real_labels_training",
                "average",
                "task_arithmetic",
                "ties",
                "adamerging",
                "wemoe",
            ),
            task_vectors=True,
        ),
    ),
)
