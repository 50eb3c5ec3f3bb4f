"""The library's best methods beside teachers and controls, on all data sets, splits and networks.

With the rows that the AutoFusion paper's reviewers asked for: how many numbers each method learns,
fine-tuning on real labels of all weights and of low-rank adapters, and a harder data set.

Command: `python experiments/reproduce.py --table=unlabelled --data_dir=DIR`
"""

import functools
from typing import Any

from pipeline.reference_rows import REFERENCE_ROWS
from pipeline.rows import Row, corrected
from pipeline.split import MODEL_ROLES
from reporting.tables import heading, title_of
from tables.autofusion import panel, settings
from tables.schema import Panel, Table

COMPARED = (
    "interpolation", "weight_matching", "activation_matching", "zipit", "autofusion_paper", "autofusion",
    "pleas", "prune_concat", "prune_concat_distill",
)  # fmt: skip
FAST = (
    "interpolation",
    "autofusion",
    "prune_concat",
    "prune_concat_distill",
    "teacher_em",
    "control_ridge_head",
)
MODEL_NAMES = {"resnet20": "ResNet20"}
SPLITS = {"2_8": (2, 8), "3_7": (3, 7), "3_3_4": (3, 3, 4)}
ABOUT = (
    "*Hard* rows hold permutations, *soft* ones the Sinkhorn matrices. A teacher runs all networks; a "
    "control uses no merge; references have real labels. *Learned* counts the numbers fitted to data.",
)


def chosen_rows(names: tuple[str, ...]) -> tuple[Row, ...]:
    """Rows of methods, in their default settings, and reference rows, by name."""
    return tuple(Row(name, title_of(name, None), None if name in REFERENCE_ROWS else name) for name in names)


def reference_rows(kinds: tuple[str, ...] = ("teacher_", "control_", "real_labels_")) -> tuple[Row, ...]:
    """The reference rows of these kinds, all that there are."""
    return chosen_rows(tuple(name for name in REFERENCE_ROWS if name.startswith(kinds)))


def _panel(name: str, base: str, *, num_tasks: int = 2, **changes: Any) -> Panel:
    endpoints = chosen_rows(MODEL_ROLES[:num_tasks])
    letters = tuple(f"task_{role[-1]}" for role in MODEL_ROLES[:num_tasks])
    config = functools.partial(settings, base, f"unlabelled/{name}", repeats=1, **changes)
    data, model = base.rsplit("_", 1)
    named = {"fashion": "fashion_mnist"}.get(data, data)
    task = {key: f", {key.replace('_', '+')} classes" for key in SPLITS} | {"5to1": ", A:B 5:1"}
    kind = next((text for key, text in task.items() if name.endswith(key)), "")
    merges = chosen_rows(COMPARED)
    if model == "resnet20":
        merges = corrected(merges, "reset_norm")
    entries = (*endpoints, *merges, *reference_rows())
    return panel(
        name, f"{heading(named)}, {MODEL_NAMES.get(model, model.upper())}{kind}", entries, config, *ABOUT,
        metrics=("joint", *letters, "avg"), costs=True,
        fast=(*MODEL_ROLES[:num_tasks], *FAST),
    )  # fmt: skip


MNIST = ("mnist_mlp", "mnist_vgg")
OTHERS = ("fashion_mlp", "fashion_vgg", "kmnist_mlp", "kmnist_vgg", "cifar10_vgg", "cifar10_resnet20")
OVERVIEW = {
    "Average": ("interpolation", None),
    "Git Re-Basin": ("weight_matching", None),
    "ZipIt": ("zipit", None),
    "AutoFusion (paper), soft": ("autofusion_paper", "soft"),
    "AutoFusion, soft": ("autofusion", "soft"),
    "AutoFusion, hard": ("autofusion", "hard"),
    "`prune_concat`": ("prune_concat", None),
    "`prune_concat_distill`": ("prune_concat_distill", None),
    "EM teacher": ("teacher_em", None),
    "Fresh network (control)": ("control_random_network", None),
    "Real labels, all images": ("real_labels_training", None),
}

TABLE = Table(
    name="unlabelled",
    title="The best network that unlabelled images buy",
    panels=(
        *(_panel(base, base, pairs=5) for base in MNIST),
        *map(_panel, OTHERS, OTHERS),
        *(
            _panel(f"{base}_{name}", base, num_tasks=len(sizes), task__sizes=sizes)
            for base in MNIST
            for name, sizes in SPLITS.items()
        ),
        *(_panel(f"{base}_5to1", base, task__ratio=5.0) for base in MNIST),
    ),
    overview=OVERVIEW,
    fast=("mnist_mlp",),
)
