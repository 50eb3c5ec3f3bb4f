"""Networks trained each from its own initialisation, merged as they are and aligned before.

Command: `python experiments/reproduce.py --table=fusion_aligned --data_dir=DIR`
"""

import dataclasses
import functools

from tables.catalogue import ALIGNMENTS
from tables.fusion import (
    INDIVIDUAL,
    REGMEAN,
    SEEN,
    TASK_ARITHMETIC,
    TIES,
    caption,
    get_config,
    row,
    within,
)
from tables.fusion_source import open_run
from tables.schema import Panel, Table

MERGED = (row("average", "Simple average"), REGMEAN, TASK_ARITHMETIC, TIES)
ROWS = (
    INDIVIDUAL,
    *MERGED,
    *(
        dataclasses.replace(entry, name=f"{entry.name}_{align}", title=f"{entry.title}, {words}", align=align)
        for align, words in ALIGNMENTS.items()
        for entry in MERGED
    ),
    row("prune_concat", "prune_concat"),
)

TABLE = Table(
    name="fusion_aligned",
    title="The same tasks from different initialisations, aligned before the merge (tiny ViT)",
    panels=(
        Panel(
            name="",
            title="",
            metrics=(*within(SEEN), "avg_within"),
            rows=ROWS,
            get_config=functools.partial(get_config, "fusion_aligned", pretrain_images=0),
            open_run=open_run,
            caption=caption(
                "FusionBench has no such table: its networks share their start. Here nothing was shared but "
                "the class vectors. *Aligned*: the units of the other networks are brought to the first "
                "one's order by the method named, before (`merge_many(..., align=...)`). The base of task "
                "vectors is where the first network's training started."
            ),
            costs=True,
            fast=("ensemble", "average", "average_activation_matching"),
        ),
    ),
)
