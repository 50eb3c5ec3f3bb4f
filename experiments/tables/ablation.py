"""What each ingredient of our methods is worth; MNIST, on the pairs of the choices, and Fashion-MNIST.

Command: `python experiments/reproduce.py --table=ablation`
"""

import functools
from typing import Any

from pipeline.rows import Row
from tables.autofusion import ENDPOINTS, panel, settings
from tables.schema import Table
from tables.unlabelled import chosen_rows, reference_rows

AUTOFUSION: dict[str, tuple[str, dict[str, Any]]] = {
    "average_gamma": ("one gamma, 0.5, for all units", {"gamma": 0.5}),
    "random_start": ("random start", {"start": "random"}),
    "z_labels": ("labels of the z ensemble", {"pseudo_labels": "z"}),
    "confident_labels": ("labels of the most confident", {"pseudo_labels": "confidence"}),
    "no_shifts": ("images unchanged", {"augment": "none"}),
    "affine": ("images turned and stretched", {"augment": "affine"}),
    "retain_only": ("L_retain alone", {"strategy": "retain"}),
    "fast_scores": ("scores at rate 1", {"learning_rate": 1.0}),
}
"""Row -> what is different from the default, in words and as options."""

DISTIL = "prune_concat_distill"
DISTILLED: dict[str, tuple[str, dict[str, Any]]] = {
    "one_copy": ("least squares on the inputs alone", {"copies": 1}),
    "ten_copies": ("least squares on ten copies", {"copies": 10}),
    "no_rounds": ("no self-training", {"rounds": 0}),
    "two_rounds": ("two rounds of self-training", {"rounds": 2}),
    "shifted": ("images shifted only", {"augment": "shift"}),
    "unchanged": ("images unchanged", {"augment": "none"}),
    "slow_distillation": ("at rate 1e-4", {"learning_rate": 1e-4}),
    "z_labels": ("labels of the z ensemble", {"pseudo_labels": "z"}),
}

ROWS = (
    *ENDPOINTS,
    Row("autofusion", "AutoFusion", "autofusion"),
    *(
        Row(f"autofusion_{name}", f"AutoFusion, {title}", "autofusion", options)
        for name, (title, options) in AUTOFUSION.items()
    ),
    Row("pleas_matched", "PLeaS, matched by activations", "pleas", {"matching": "activation_matching"}),
    Row("pleas_em", "PLeaS likewise, head on labels", "pleas",
          {"matching": "activation_matching", "pseudo_labels": "em"}),
    *chosen_rows(("prune_concat", DISTIL)),
    *(
        Row(f"{DISTIL}_{name}", f"{DISTIL}: {title}", DISTIL, options)
        for name, (title, options) in DISTILLED.items()
    ),
    Row(f"{DISTIL}_real_labels", f"{DISTIL}: real labels", DISTIL, real_labels=1.0),
    Row(f"{DISTIL}_real_labels_unchanged", f"{DISTIL}: real labels, images unchanged", DISTIL,
          {"augment": "none"}, real_labels=1.0),
    *reference_rows(("teacher_", "control_")),
)  # fmt: skip
FAST = ("interpolation", "autofusion", "prune_concat", "prune_concat_distill", "teacher_em")
CHOSEN_HERE = "Settings were chosen on these pairs: what is reported elsewhere is of other seeds."
ELSEWHERE = "Settings were chosen on MNIST."


def _panel(name: str, base: str, title: str, about: str):
    config = functools.partial(settings, base, f"ablation/{name}", repeats=1, seed=0)
    return panel(name, title, ROWS, config, about, fast=FAST)


TABLE = Table(
    name="ablation",
    title="What each ingredient is worth",
    panels=(
        _panel("mlp", "mnist_mlp", "MNIST, MLP", CHOSEN_HERE),
        _panel("vgg", "mnist_vgg", "MNIST, VGG", CHOSEN_HERE),
        _panel("fashion_mlp", "fashion_mlp", "Fashion-MNIST, MLP", ELSEWHERE),
    ),
    fast=("mlp",),
)
