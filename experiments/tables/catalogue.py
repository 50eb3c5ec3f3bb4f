"""FusionBench's methods on networks of different initialisation, as they are and aligned before.

Command: `python experiments/reproduce.py --table=catalogue`
"""

import functools

from pipeline.rows import Row
from tables.autofusion import ENDPOINTS, panel, settings
from tables.schema import Panel, Table

ALIGNMENTS = {
    "weight_matching": "aligned by weights",
    "activation_matching": "aligned by activations",
    "autofusion": "aligned by AutoFusion",
}
NETWORKS = {"mnist_mlp": "MLP", "mnist_vgg": "VGG"}
METHODS = {
    "average": "Average",
    "slerp": "Slerp",
    "fisher": "Fisher",
    "regmean": "RegMean",
    "task_arithmetic": "Task arithmetic",
    "ties": "TIES",
    "dare": "DARE",
    "breadcrumbs": "Breadcrumbs",
    "iso_c": "Iso-C",
    "tsv": "TSV-M",
    "wudi": "WUDI",
    "adamerging": "AdaMerging",
}
FAST = ("model_a", "model_b", "average", "task_arithmetic", "ties")
ABOUT = (
    "Two specialists, each from an initialisation of its own. All methods in their default settings and "
    "without labels; the base of task vectors is where A's training started. *Aligned*: units of B are "
    "brought to A's order by the method named, before (`merge_many(..., align=...)`).",
)


def _panel(base: str, align: str | None) -> Panel:
    name = f"{base}_{align or 'unaligned'}"
    rows = (Row(method, title, method, align=align, from_start=True) for method, title in METHODS.items())
    config = functools.partial(settings, base, f"catalogue/{name}", repeats=1)
    title = f"{NETWORKS[base]}, {ALIGNMENTS[align] if align else 'as they are'}"
    return panel(name, title, (*ENDPOINTS[:2], *rows), config, *ABOUT, costs=True, fast=FAST)


TABLE = Table(
    name="catalogue",
    title="FusionBench's methods on networks of different initialisation (MNIST)",
    panels=tuple(_panel(base, align) for base in NETWORKS for align in (None, *ALIGNMENTS)),
    overview={title: (name, None) for name, title in METHODS.items()},
    fast=("mnist_mlp_activation_matching",),
)
