"""Sentences that the captions of tables share, filled in from settings and records."""

from collections.abc import Mapping

from autofusion_jax.reporting.records import Row
from tables.schema import TableConfig


def endpoints(rows: Mapping[str, Row]) -> str:
    """How good the networks are that were merged, each within its own task."""
    parts = [
        f"{name} {rows[row].mean[metric]:.2f} %"
        for name, row, metric in (("A", "model_a", "task_a_within"), ("B", "model_b", "task_b_within"))
        if row in rows
    ]
    return f"Endpoints within their own task: {', '.join(parts)}." if parts else ""


def training(config: TableConfig) -> str:
    """What the networks are, and how they were trained."""
    options = config.train
    widths = ", ".join(map(str, config.model.widths))
    augmented = ", images mirrored and shifted" if options.augment else ""
    return (
        f"{config.model.name} of widths {widths}, trained for {options.epochs} epoch(s) by "
        f"{options.optimizer} at {options.learning_rate:g}, batches of {options.batch_size}{augmented}."
    )


def protocol(config: TableConfig) -> str:
    """How many pairs, and what merges see."""
    return (
        f"Mean ± standard deviation over {config.pairs} pair(s) of endpoints, seed {config.seed} and up; "
        f"merges see {config.data.num_unlabelled:,} training images without labels."
    )
