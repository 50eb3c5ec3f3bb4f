"""AutoFusion, Table 1: methods on MNIST and CIFAR-10, MLP and VGG.

Command: `python experiments/reproduce.py --table=1`
"""

import dataclasses
import functools

from pipeline.rows import Row
from reporting.tables import heading
from tables.autofusion import ENDPOINTS, PAPER, PROTOCOLS, VGG_ENDPOINTS, panel, settings
from tables.schema import Table

METHODS = (
    Row("weight_matching", "Git Re-Basin", "weight_matching"),
    Row("zipit", "ZipIt", "zipit"),
    Row("autofusion_paper", "AutoFusion (paper)", "autofusion_paper"),
    Row("autofusion", "AutoFusion", "autofusion"),
)
KNOWN = {"zipit": {"joint": 52.00}, "autofusion_paper": {"joint": 65.62}}
"""Joint accuracies of the VGG on MNIST, from a summary of the paper."""
ABOUT = (
    f"Published: {PAPER}, Table 1; of its body we know the rows of the VGG on MNIST that other tables "
    "repeat, and two joint accuracies from a summary. It does not say whether tasks share the logits of a "
    "head: both readings are given.",
    "*AutoFusion (paper)*: the paper's settings; *AutoFusion*: our default ones.",
)


def _panel(data: str, model: str, labels: str):
    name, known = f"{data}_{model}_{labels}", (data, model) == ("mnist", "vgg")
    methods = (dataclasses.replace(e, published=KNOWN.get(e.name, {})) for e in METHODS) if known else METHODS
    entries = (*(VGG_ENDPOINTS if known else ENDPOINTS), *methods)
    title = f"{heading(data)}, {model.upper()}, {labels} labels"
    config = functools.partial(
        settings, f"{data}_{model}", f"1/{name}", repeats=3 if known else 1, labels=labels
    )
    return panel(name, title, entries, config, *ABOUT)


TABLE = Table(
    name="1",
    title="AutoFusion, Table 1: methods (MNIST and CIFAR-10, MLP and VGG)",
    panels=tuple(
        _panel(data, model, labels)
        for data in ("mnist", "cifar10")
        for model in ("vgg", "mlp")
        for labels in PROTOCOLS
    ),
    overview={
        "Model A": ("model_a", None),
        "Model B": ("model_b", None),
        "Average": ("interpolation", None),
        "Git Re-Basin": ("weight_matching", None),
        "ZipIt": ("zipit", None),
        "AutoFusion (paper), soft": ("autofusion_paper", "soft"),
        "AutoFusion (paper), hard": ("autofusion_paper", "hard"),
        "AutoFusion, soft": ("autofusion", "soft"),
        "AutoFusion, hard": ("autofusion", "hard"),
    },
    fast=("mnist_vgg_disjoint",),
)
