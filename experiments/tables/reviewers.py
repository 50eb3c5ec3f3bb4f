"""What the paper's reviewers asked for: numbers learned, teachers, controls, fine-tuning and LoRA; MNIST.

Command: `python experiments/reproduce.py --table=reviewers`
"""

import functools

from tables.autofusion import ENDPOINTS, panel, settings
from tables.best import method_rows, reference_rows
from tables.schema import Table

ENTRIES = (*ENDPOINTS[:2], *method_rows(), *reference_rows())
ABOUT = (
    "*Learned*: how many numbers each row fits to data. Teachers run both networks; controls use no merge; "
    "the rows with real labels see what no merge sees.",
)


def _panel(model: str):
    config = functools.partial(settings, f"mnist_{model}", f"reviewers/{model}", repeats=2)
    return panel(model, f"MNIST, {model.upper()}", ENTRIES, config, *ABOUT, costs=True)


TABLE = Table(
    name="reviewers",
    title="What reviewers asked for: numbers learned, controls and references",
    panels=tuple(map(_panel, ("vgg", "mlp"))),
    fast=("vgg",),
)
