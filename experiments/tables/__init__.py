"""The one registry of reproduced tables. A new table is one file and one line here."""

from tables import (
    ablation,
    autofusion_1,
    autofusion_2,
    autofusion_3,
    autofusion_4,
    autofusion_5,
    autofusion_6,
    autofusion_7,
    autofusion_8,
    autofusion_9,
    catalogue,
    cifar5_resnet20,
    fusion,
    fusion_aligned,
    fusion_corrupted,
    fusion_heads,
    fusion_text,
    fusion_text_to_text,
    fusion_unseen,
    inputs,
    mudsc_s1,
    unlabelled,
)
from tables.schema import Panel, Table

MODULES = (
    autofusion_1, autofusion_2, autofusion_3, autofusion_4, autofusion_5, autofusion_6, autofusion_7,
    autofusion_8, autofusion_9, unlabelled, ablation, inputs, catalogue, cifar5_resnet20, mudsc_s1,
)  # fmt: skip
FUSION_BENCH = (
    fusion, fusion_unseen, fusion_corrupted, fusion_aligned, fusion_heads, fusion_text, fusion_text_to_text,
)  # fmt: skip
"""FusionBench's protocol, which `bench_fusion.py` runs whole; `--all` leaves it out."""
TABLES: dict[str, Table] = {module.TABLE.name: module.TABLE for module in (*MODULES, *FUSION_BENCH)}


def find_panel(table: str, panel: str = "") -> tuple[Table, Panel]:
    """A table and its panel, by the names that stored results carry.

    Raises:
        KeyError: there is none.
    """
    return TABLES[table], {one.name: one for one in TABLES[table].panels}[panel]
