"""FusionBench, Tables 5 and 17, at a size for two CPU cores: merged on three tasks, measured on two more.

Command: `python experiments/reproduce.py --table=fusion_unseen --data_dir=DIR`
"""

import functools

from tables.fusion import AS_PUBLISHED, DATASETS, PAPER, START, caption, get_config, within
from tables.fusion_source import open_run
from tables.schema import Panel, Table

SPLITS = {
    "kmnist_cifar10": ("kmnist", "cifar10_28"),
    "fashion_digits": ("fashion_mnist", "digits_28"),
}
"""Panel -> the data sets that no merged network was fine-tuned on."""
TITLES = {"kmnist_cifar10": "KMNIST and CIFAR-10 unseen", "fashion_digits": "Fashion-MNIST and digits unseen"}


def _panel(name: str) -> Panel:
    unseen = SPLITS[name]
    seen = tuple(dataset for dataset in DATASETS if dataset not in unseen)
    return Panel(
        name=name,
        title=TITLES[name],
        metrics=("seen_within", "unseen_within", *within(seen), *within(unseen)),
        rows=(START, *AS_PUBLISHED),
        get_config=functools.partial(get_config, f"fusion_unseen/{name}", seen=seen, unseen=unseen),
        open_run=open_run,
        caption=caption(
            f"The form is that of {PAPER}, Tables 5 and 17: six tasks seen and two unseen there. *Seen* and "
            "*Unseen* are means over the tasks whose networks are merged, and over the others. "
            "The common start saw a few images of all five."
        ),
        costs=True,
    )


TABLE = Table(
    name="fusion_unseen",
    title="FusionBench, Tables 5 and 17: tasks that no merged network was fine-tuned on (tiny ViT)",
    panels=tuple(map(_panel, SPLITS)),
    fast=("kmnist_cifar10",),
)
