"""FusionBench, Table 6, at a size for two CPU cores: methods that see, and are measured on, corrupted images.

Command: `python experiments/reproduce.py --table=fusion_corrupted --data_dir=DIR`
"""

import functools

from data.corruptions import CORRUPTIONS
from tables.fusion import AS_PUBLISHED, INDIVIDUAL, PAPER, SEEN, START, caption, get_config, within
from tables.fusion_source import open_run
from tables.schema import Panel, Table

CLEAN = "clean"
ROWS = (START, INDIVIDUAL, *AS_PUBLISHED)


def _panel(name: str) -> Panel:
    corruption = "" if name == CLEAN else name
    return Panel(
        name=name,
        title=f"{name.replace('_', ' ').capitalize()} test images",
        metrics=(*within(SEEN), "avg_within"),
        rows=ROWS,
        get_config=functools.partial(
            get_config, f"fusion_corrupted/{name}", corruption=corruption, sees_test=True
        ),
        open_run=open_run,
        caption=caption(
            f"The form is that of {PAPER}, Table 6; networks are fine-tuned on clean images. As there, "
            "methods adapt to the very images that they are then measured on. Each corruption has one "
            "severity, a constant of `experiments/data/corruptions.py`."
        ),
    )


TABLE = Table(
    name="fusion_corrupted",
    title="FusionBench, Table 6: corrupted images (tiny ViT)",
    panels=tuple(map(_panel, (CLEAN, *CORRUPTIONS))),
    overview_metric="avg_within",
    overview={entry.title: (entry.name, None) for entry in ROWS},
    fast=(CLEAN, "gaussian_noise"),
)
