"""AutoFusion, Table 9: depth of the MLP; MNIST.

Command: `python experiments/reproduce.py --table=9`
"""

import functools

from pipeline.rows import Row
from tables.autofusion import ENDPOINTS, PAPER, panel, settings
from tables.schema import Point, Sweep, Table

DEPTHS = (2, 4, 6, 8)
SERIES = {"autofusion_paper": "the paper's preset", "autofusion": "ours"}
ROWS = (
    *ENDPOINTS,
    Row("autofusion_paper", "AutoFusion (paper)", "autofusion_paper"),
    Row("autofusion", "AutoFusion", "autofusion"),
)


def _panel(depth: int):
    name = f"depth_{depth}"
    config = functools.partial(settings, "mnist_mlp", f"9/{name}", repeats=1, model__widths=(512,) * depth)
    about = f"Published: {PAPER}, Table 9; its body is not known to us."
    return panel(name, f"{depth} hidden layers", ROWS, config, about)


TABLE = Table(
    name="9",
    title="AutoFusion, Table 9: depth (MLP, MNIST)",
    panels=tuple(map(_panel, DEPTHS)),
    sweeps=(
        Sweep(
            "depth", "Depth of the MLP (MNIST)", "hidden layers",
            {
                **{
                    title: [Point(depth, entry, f"depth_{depth}") for depth in DEPTHS]
                    for entry, title in SERIES.items()
                },
                "interpolation": [Point(depth, "interpolation", f"depth_{depth}") for depth in DEPTHS],
            },
        ),
    ),
    fast=("depth_2", "depth_4"),
)  # fmt: skip
