"""AutoFusion, Table 6: how often the rounded strategy switches its loss; VGG, MNIST.

Command: `python experiments/reproduce.py --table=6`
"""

import functools

from tables.autofusion import PAPER, PROTOCOLS, VGG_ENDPOINTS, panel, paper_row, protocol_sweep, settings
from tables.schema import Table

PUBLISHED = {
    1: (62.36, 53.88, 71.09, 62.48),
    2: (62.11, 54.55, 69.89, 62.22),
    3: (63.08, 55.32, 71.07, 63.19),
    4: (64.78, 55.38, 74.46, 64.92),
    5: (65.19, 58.98, 71.57, 65.27),
    6: (62.12, 52.71, 71.80, 62.26),
    7: (61.99, 54.78, 69.40, 62.09),
    8: (61.07, 49.70, 72.77, 61.24),
}
ROWS = tuple(
    paper_row(
        f"switch_every_{epochs}", f"AutoFusion, switched every {epochs} epoch(s)", values,
        strategy="rounded", switch_every=epochs,
    )
    for epochs, values in PUBLISHED.items()
)  # fmt: skip
EPOCHS = 16
"""Both losses have their turn under every setting: L_align comes first."""


def _panel(labels: str):
    config = functools.partial(
        settings, "mnist_vgg", f"6/{labels}", repeats=1, labels=labels, merge__epochs=EPOCHS
    )
    return panel(
        labels, f"{labels} labels", (*VGG_ENDPOINTS, *ROWS), config, f"Published: {PAPER}, Table 6.",
        fast=("model_a", "model_b", "interpolation", "switch_every_1"),
    )  # fmt: skip


TABLE = Table(
    name="6",
    title="AutoFusion, Table 6: epochs between switches under rounded optimisation (VGG, MNIST)",
    panels=tuple(map(_panel, PROTOCOLS)),
    sweeps=(
        protocol_sweep(
            "switching", "Switching between the losses, rounded strategy", "epochs between switches",
            {n: f"switch_every_{n}" for n in PUBLISHED},
        ),
    ),
    fast=("disjoint",),
)  # fmt: skip
