"""AutoFusion, Table 4: the threshold of pseudo-labels, with and without layer weights; VGG, MNIST.

Command: `python experiments/reproduce.py --table=4`
"""

import functools

from tables.autofusion import PAPER, VGG_ENDPOINTS, panel, paper_row, settings
from tables.schema import Point, Sweep, Table

ZETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WEIGHTINGS = {"linear": "with layer weights", "uniform": "without layer weights"}
ROWS = tuple(
    paper_row(f"zeta_{zeta}_{weighting}", f"zeta {zeta}, {title}", zeta=zeta, layer_weighting=weighting)
    for weighting, title in WEIGHTINGS.items()
    for zeta in ZETAS
)

TABLE = Table(
    name="4",
    title="AutoFusion, Table 4: threshold of the pseudo-labels (VGG, MNIST)",
    panels=(
        panel(
            "", "", (*VGG_ENDPOINTS, *ROWS), functools.partial(settings, "mnist_vgg", "4", repeats=1),
            f"Published: {PAPER}, Table 4; its body is not known to us but for the endpoints.",
            fast=("model_a", "model_b", "interpolation", "zeta_0.0_linear", "zeta_0.9_linear"),
        ),
    ),
    sweeps=(
        Sweep(
            "zeta", "Threshold of the pseudo-labels (VGG, MNIST, the paper's preset)", "zeta",
            {
                title: [Point(zeta, f"zeta_{zeta}_{weighting}") for zeta in ZETAS]
                for weighting, title in WEIGHTINGS.items()
            },
            {"interpolation": Point(0, "interpolation")},
        ),
    ),
)  # fmt: skip
