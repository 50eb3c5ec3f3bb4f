"""MuDSC, Table 1: CIFAR-10 in halves of five classes, ResNet20 with BatchNorm.

Command: `python experiments/reproduce.py --table=cifar5_resnet20`
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from autofusion_jax.evaluation.results import Summary
from configs import get_config as get_named_config
from configs.schema import EvaluateConfig, MergeConfig
from pipeline.endpoints import open_run
from pipeline.rows import Row, corrected
from tables.captions import endpoints, protocol, training
from tables.mudsc import ALPHAS, PAPER, ZIP
from tables.schema import Panel, Table, TableConfig

COLUMNS = ("joint", "avg_within", "task_a_within", "task_b_within")

CUT = "stage2_block0/conv_0/kernel.read"
"""What the third stage reads: the stem and twelve convolutions are before it."""


def get_config() -> TableConfig:
    base = get_named_config("cifar10_resnet20")
    fields: dict[str, Any] = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    evaluate, merge = EvaluateConfig(curve_points=11, curve_images=500), MergeConfig(repeats=1, epochs=8)
    fields |= {"name": "cifar5_resnet20", "evaluate": evaluate, "merge": merge}
    return TableConfig(**fields)


OF_0_3_0 = {
    "epochs": 8, "gamma": 0.5, "start": "random", "pseudo_labels": "confidence", "zeta": 0.9,
    "augment": "none", "learning_rate": 1.0,
}  # fmt: skip
"""What the default of AutoFusion was when this table was run: one gamma for all units, a random start."""


def _published(*values: float) -> dict[str, float]:
    return dict(zip(COLUMNS, values))


ROWS = (
    Row("model_a", "Model A"),
    Row("model_b", "Model B"),
    Row("ensemble", "Ensemble of both"),
    Row("average", "Average", "interpolation", published=_published(54.42, 75.24, 79.58, 70.90)),
    Row("rebasin", "Git Re-Basin", "weight_matching", published=_published(60.61, 88.57, 88.46, 88.68)),
    Row("activation_align", "Activation align", "activation_matching",
          published=_published(61.71, 89.21, 88.63, 89.78)),
    Row("mudsc_align", "MuDSC, align", "mudsc", {"matching": "align"}, {"alpha": ALPHAS},
          published=_published(60.84, 89.34, 89.04, 89.63)),
    Row("zipit", "ZipIt, 20/20", "zipit", ZIP, published=_published(82.44, 94.61, 94.22, 95.00)),
    Row("zipit_13", "ZipIt, 13/20 (two heads)", "zipit", {**ZIP, "stop_at": CUT}),
    Row("weight_zip", "Weight zip", "mudsc", {"matching": "zip", **ZIP, "alpha": 1.0},
          published=_published(82.85, 94.71, 94.42, 94.99)),
    Row("mudsc_zip", "MuDSC, zip", "mudsc", {"matching": "zip", **ZIP}, {"alpha": ALPHAS},
          published=_published(83.09, 94.88, 94.56, 95.21)),
    Row("autofusion", "AutoFusion of 0.3.0, 8 epochs", "autofusion", OF_0_3_0),
)  # fmt: skip


def caption(config: TableConfig, rows: Mapping[str, Summary]) -> list[str]:
    return [
        f"Ours: {training(config)} Cross-entropy over all ten classes. {endpoints(rows)} "
        f"{protocol(config)} After every merge BatchNorm statistics are measured again on these images.",
        f"Published: {PAPER}, Table 1: widths 128, 256, 512, 200 epochs, a CLIP-style head trained within "
        "each task. Compare the order of the methods, not the numbers.",
        "*Joint* and *Avg* are by the argmax over all ten classes; *within* is by the argmax over the "
        "task's own five, as the published Avg, T. A and T. B are. *Ensemble*: both networks run, the surer "
        "one answers; within a task its own.",
    ]


TABLE = Table(
    name="cifar5_resnet20",
    title="CIFAR-10 (5+5), ResNet20: MuDSC, Table 1",
    panels=(
        Panel(
            name="",
            title="",
            metrics=(*COLUMNS, "avg"),
            rows=corrected(ROWS, "reset_norm"),
            get_config=get_config,
            open_run=open_run,
            caption=caption,
            curves=("average", "rebasin", "activation_align", "mudsc_align", "zipit", "mudsc_zip"),
            fast=("average", "zipit"),
        ),
    ),
)
