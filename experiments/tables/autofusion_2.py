"""AutoFusion, Table 2: strategies of balancing the two losses, and each loss alone; MNIST.

Command: `python experiments/reproduce.py --table=2`
"""

import functools

from tables.autofusion import ENDPOINTS, PAPER, PROTOCOLS, VGG_ENDPOINTS, panel, paper_row, settings
from tables.schema import Table

STRATEGIES = (
    paper_row("weighted", "Weighted, 0.4 : 0.6", strategy="weighted", omega_a=0.4, omega_r=0.6),
    paper_row("rounded", "Rounded, switched every epoch", strategy="rounded"),
    paper_row("normalized", "Normalized", strategy="normalized"),
    paper_row("align", "L_align only", strategy="align"),
    paper_row("retain", "L_retain only", strategy="retain"),
)
ABOUT = f"Published: {PAPER}, Table 2; of its body only the endpoints of the VGG are known to us."
FAST = ("model_a", "model_b", "interpolation", "normalized", "align")


def _panel(model: str, labels: str):
    entries = (*(VGG_ENDPOINTS if model == "vgg" else ENDPOINTS), *STRATEGIES)
    name, repeats = f"{model}_{labels}", 2 if model == "vgg" else 1
    config = functools.partial(settings, f"mnist_{model}", f"2/{name}", repeats=repeats, labels=labels)
    return panel(name, f"{model.upper()}, {labels} labels", entries, config, ABOUT, fast=FAST)


TABLE = Table(
    name="2",
    title="AutoFusion, Table 2: optimisation strategies and ablation (MNIST)",
    panels=tuple(_panel(model, labels) for model in ("vgg", "mlp") for labels in PROTOCOLS),
    fast=("mlp_shared",),
)
