"""How many unlabelled images it takes: 100 to 30,000; MLP, MNIST.

Command: `python experiments/reproduce.py --table=inputs`
"""

import functools

from tables.autofusion import ENDPOINTS, panel, settings
from tables.schema import Point, Sweep, Table
from tables.unlabelled import chosen_rows

NUMBERS = (100, 300, 1000, 2000, 5000, 10_000, 30_000)
SERIES = {
    "prune_concat_distill": "`prune_concat_distill`",
    "prune_concat": "`prune_concat`",
    "teacher_em": "EM teacher",
    "teacher_z": "standardised-logit teacher",
    "control_random_network": "fresh network on the EM teacher's labels (control)",
}
ROWS = (*ENDPOINTS, *chosen_rows(tuple(SERIES)))


def _panel(number: int):
    config = functools.partial(
        settings, "mnist_mlp", f"inputs/{number}", repeats=1, data__num_unlabelled=number
    )
    return panel(str(number), f"{number:,} images", ROWS, config)


TABLE = Table(
    name="inputs",
    title="How many unlabelled images it takes (MLP, MNIST)",
    panels=tuple(map(_panel, NUMBERS)),
    sweeps=(
        Sweep(
            "inputs", "Unlabelled images (MLP, MNIST)", "images",
            {
                title.replace("`", ""): [Point(number, entry, str(number)) for number in NUMBERS]
                for entry, title in SERIES.items()
            },
            log_x=True,
        ),
    ),
    overview={title: (entry, None) for entry, title in SERIES.items()},
    fast=("300", "1000"),
)  # fmt: skip
