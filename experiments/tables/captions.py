"""Sentences that the captions of tables share, filled in from settings and records."""

from collections.abc import Mapping

from autofusion_jax.evaluation.results import Summary
from reporting.tables import heading
from tables.schema import TableConfig

PAPER_EPOCHS = 64


def endpoints(rows: Mapping[str, Summary]) -> str:
    """How good the networks are that were merged, each within its own task."""
    parts = []
    for row in (f"model_{letter}" for letter in "abcdefghij"):
        within = [name for name in rows[row].mean if name.endswith("_within")] if row in rows else []
        names = [name for name in within if not name.startswith("avg")]
        place = ord(row[-1]) - ord("a")
        if place < len(names):
            parts.append(f"{row[-1].upper()} {rows[row].mean[names[place]]:.2f} %")
    return f"Endpoints within their own task: {', '.join(parts)}." if parts else ""


def training(config: TableConfig) -> str:
    """What the networks are, and how they were trained."""
    options, model = config.train, config.model
    widths = ", ".join(map(str, model.widths))
    augmented = ", images mirrored and shifted" if options.augment else ""
    return (
        f"{model.name} of widths {widths}, trained for {options.epochs} epoch(s) by "
        f"{options.optimizer} at {options.learning_rate:g}, batches of {options.batch_size}{augmented}."
    )


def protocol(config: TableConfig) -> str:
    """How many pairs, and what merges see."""
    return (
        f"Mean ± standard deviation over {config.pairs} pair(s) of endpoints, seed {config.seed} and up; "
        f"merges see {config.data.num_unlabelled:,} training images, "
        "without labels but where a row says otherwise."
    )


def tasks(config: TableConfig) -> str:
    """What the tasks are, and how they share the head."""
    names = [heading(name) for name in config.data.name.split("+")]
    if len(names) > 1:
        parts = f"The tasks are {', '.join(names)}."
    else:
        sizes = f"tasks of {' + '.join(map(str, config.task.sizes))}" if config.task.sizes else "two halves"
        parts = f"{names[0]}'s classes in {sizes}."
    heads = {
        "disjoint": "The head has a logit for every class.",
        "shared": "The classes of each task are called 0, 1, ...: all share one head.",
    }
    few = f" Only {config.data.num_train:,} training images." if config.data.num_train else ""
    ratio = config.task.ratio
    uneven = f" The merges' images are {ratio:g} times as often of task A." if ratio != 1 else ""
    return f"{parts} {heads[config.task.labels]}{few}{uneven}"


def merging(config: TableConfig) -> str:
    """How long AutoFusion ran."""
    return f"AutoFusion ran for {config.merge.epochs} epochs (the paper: {PAPER_EPOCHS})."


def keys(config: TableConfig) -> str:
    """What the numbers in brackets are."""
    if config.merge.repeats == 1:
        return ""
    return f"In brackets the deviation over {config.merge.repeats} keys of the merge, the mean of the pairs."
