"""Train two specialists (or find them), merge them by every method of the config, and report.

python experiments/merge.py --config=mnist_vgg
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

import dataclasses

from rich.console import Console

from app import define_config, run
from autofusion_jax.merging.registry import METHODS
from autofusion_jax.validation import require, unknown_name
from configs.schema import Config, split_commas
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
    merging = config.merge
    merging.methods, merging.references = split_commas(merging.methods), split_commas(merging.references)
    for name in merging.methods:
        if name not in METHODS:
            raise unknown_name("--config.merge.methods", "method", name, METHODS)
    for name in merging.references:
        if name not in REFERENCE_ROWS:
            raise unknown_name("--config.merge.references", "row", name, REFERENCE_ROWS)
    for field in ("repeats", "epochs"):
        require(getattr(merging, field) >= 1, "--config.merge", field, ">= 1", getattr(merging, field))
    require(config.pairs >= 1, "--config", "pairs", ">= 1", config.pairs)
    config.train.check()
    config.task.check()
    for field in dataclasses.fields(config.evaluate):
        value = getattr(config.evaluate, field.name)
        require(value >= 2, "--config.evaluate", field.name, ">= 2", value)


if __name__ == "__main__":
    run(main)
