"""AutoFusion, Table 5: weights of the two losses under the weighted strategy; VGG, MNIST.

Command: `python experiments/reproduce.py --table=5`
"""

import functools

from tables.autofusion import PAPER, PROTOCOLS, VGG_ENDPOINTS, panel, paper_row, protocol_sweep, settings
from tables.schema import Table

PUBLISHED = {
    0.1: (64.09, 57.68, 70.68, 64.18),
    0.2: (63.91, 54.33, 73.77, 64.05),
    0.3: (63.94, 55.16, 72.98, 64.07),
    0.4: (61.27, 52.93, 69.85, 61.39),
    0.5: (61.12, 51.51, 71.01, 61.26),
    0.6: (60.12, 50.82, 69.69, 60.26),
    0.7: (62.79, 53.94, 71.90, 62.92),
    0.8: (64.49, 57.67, 71.51, 64.59),
    0.9: (63.21, 56.52, 70.09, 63.31),
}
ROWS = tuple(
    paper_row(
        f"omega_a_{weight}", f"AutoFusion, omega_a {weight}, omega_r {1 - weight:.1f}", values,
        strategy="weighted", omega_a=weight, omega_r=round(1 - weight, 1),
    )
    for weight, values in PUBLISHED.items()
)  # fmt: skip


def _panel(labels: str):
    config = functools.partial(settings, "mnist_vgg", f"5/{labels}", repeats=1, labels=labels)
    return panel(
        labels, f"{labels} labels", (*VGG_ENDPOINTS, *ROWS), config, f"Published: {PAPER}, Table 5.",
        fast=("model_a", "model_b", "interpolation", "omega_a_0.1", "omega_a_0.9"),
    )  # fmt: skip


TABLE = Table(
    name="5",
    title="AutoFusion, Table 5: weights under weighted optimisation (VGG, MNIST)",
    panels=tuple(map(_panel, PROTOCOLS)),
    sweeps=(
        protocol_sweep(
            "weights", "Weights of the losses, weighted strategy", "omega_a = 1 - omega_r",
            {w: f"omega_a_{w}" for w in PUBLISHED},
        ),
    ),
    fast=("disjoint",),
)  # fmt: skip
