"""AutoFusion, Table 7: iterations of the Sinkhorn operator; VGG, MNIST.

Command: `python experiments/reproduce.py --table=7`
"""

import functools

from pipeline.rows import Row
from tables.autofusion import PAPER, VGG_ENDPOINTS, panel, paper_row, settings
from tables.schema import Point, Sweep, Table

ITERATIONS = (1, 2, 5, 10, 20, 50, 100)
ROWS = tuple(
    paper_row(f"num_iters_{number}", f"{number} iteration(s)", num_iters=number) for number in ITERATIONS
)
OURS = tuple(
    Row(f"ours_{number}", f"Ours, {number} iteration(s)", "autofusion", {"num_iters": number})
    for number in ITERATIONS
)

TABLE = Table(
    name="7",
    title="AutoFusion, Table 7: Sinkhorn iterations (VGG, MNIST)",
    panels=(
        panel(
            "", "", (*VGG_ENDPOINTS, *ROWS, *OURS), functools.partial(settings, "mnist_vgg", "7", repeats=1),
            f"Published: {PAPER}, Table 7; its body is not known to us but for the endpoints. *Ours*: our "
            "default settings, with other numbers of iterations.",
            fast=("model_a", "model_b", "interpolation", "num_iters_1", "num_iters_20"),
        ),
    ),
    sweeps=(
        Sweep(
            "sinkhorn", "Sinkhorn iterations (VGG, MNIST)", "iterations",
            {
                "the paper's preset": [Point(number, f"num_iters_{number}") for number in ITERATIONS],
                "ours": [Point(number, f"ours_{number}") for number in ITERATIONS],
            },
            {"interpolation": Point(1, "interpolation")},
            log_x=True,
        ),
    ),
)  # fmt: skip
