"""AutoFusion, Table 8: real labels, of a growing share of 9,000 images; VGG, MNIST.

Command: `python experiments/reproduce.py --table=8`
"""

import dataclasses
import functools

from tables.autofusion import PAPER, PROTOCOLS, VGG_ENDPOINTS, panel, paper_row, protocol_sweep, settings
from tables.schema import Table

PUBLISHED = {
    10: (73.06, 66.81, 79.49, 73.15),
    20: (77.39, 71.95, 82.98, 77.47),
    30: (77.79, 73.17, 82.54, 77.86),
    40: (82.55, 75.40, 89.91, 82.66),
    50: (79.29, 74.77, 83.94, 79.36),
    60: (80.23, 73.52, 87.21, 80.37),
    70: (81.19, 73.66, 89.70, 81.68),
    80: (82.88, 78.12, 87.77, 82.95),
    90: (81.33, 76.19, 86.62, 81.41),
    100: (83.21, 78.24, 88.10, 83.17),
}
ROWS = tuple(
    dataclasses.replace(
        paper_row(f"labels_{percent}", f"AutoFusion, {percent} %", values), real_labels=percent / 100
    )
    for percent, values in PUBLISHED.items()
)
NUM_IMAGES, EPOCHS = 9000, 8


def _panel(labels: str):
    config = functools.partial(
        settings, "mnist_vgg", f"8/{labels}", repeats=1, labels=labels, merge__epochs=EPOCHS,
        data__num_unlabelled=NUM_IMAGES,
    )  # fmt: skip
    return panel(
        labels, f"{labels} labels", (*VGG_ENDPOINTS, *ROWS), config,
        f"Published: {PAPER}, Table 8. AutoFusion learns from the real labels of the share given, and sees "
        "no other image. Epochs are equal, so that a larger share also has more steps.",
        fast=("model_a", "model_b", "interpolation", "labels_10", "labels_100"),
    )  # fmt: skip


TABLE = Table(
    name="8",
    title="AutoFusion, Table 8: real labels (VGG, MNIST)",
    panels=tuple(map(_panel, PROTOCOLS)),
    sweeps=(
        protocol_sweep(
            "labels", "Share of 9,000 images with real labels", "share (%)",
            {p: f"labels_{p}" for p in PUBLISHED},
        ),
    ),
    fast=("disjoint",),
)  # fmt: skip
