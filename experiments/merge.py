"""Train two specialists (or find them), merge them by every method of the config, and report.

python experiments/merge.py --config=mnist_vgg
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported


from rich.console import Console

from app import define_config, run
from autofusion_jax.merging.registry import METHODS
from autofusion_jax.validation import require, unknown_name
from configs.schema import Config, split_commas
from fields import check_fields
from pipeline.endpoints import open_run
from pipeline.reference_rows import REFERENCE_ROWS
from pipeline.run_folder import finish_folder, open_folder, run_rows

CONFIG = define_config()


def main(console: Console) -> None:
    config = CONFIG.value
    check(config)
    opened = open_run(config, console)
    with open_folder(opened) as folder:
        finish_folder(folder, opened, run_rows(folder, opened))


def check(config: Config) -> None:
    """Refuse settings that would fail only after minutes of training."""
    check_fields("--config", config)
    merging = config.merge
    merging.methods, merging.references = split_commas(merging.methods), split_commas(merging.references)
    for name in merging.methods:
        if name not in METHODS:
            raise unknown_name("--config.merge.methods", "method", name, METHODS)
    for name in merging.references:
        if name not in REFERENCE_ROWS:
            raise unknown_name("--config.merge.references", "row", name, REFERENCE_ROWS)
    rows = bool(merging.methods or merging.references)
    require(rows, "--config.merge", "methods or references", "given", "none of either")


if __name__ == "__main__":
    run(main)
