"""What the tables of the AutoFusion paper share: settings, rows and captions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autofusion_jax.evaluation.accuracy import METRICS
from autofusion_jax.evaluation.results import Summary
from configs import get_config as get_named_config
from pipeline.endpoints import open_run
from pipeline.rows import Row
from tables.captions import endpoints, keys, merging, protocol, tasks, training
from tables.schema import Panel, Point, Sweep, TableConfig

PAPER = "Tian, Lai, Yue: Wolf2Pack: The AutoFusion Framework (arXiv 2410.05746)"
PROTOCOLS = ("disjoint", "shared")
SEED = 100
"""Settings were chosen on smaller seeds."""


def published(*values: float) -> dict[str, float]:
    """Published accuracies in the order of the columns Joint, Task A, Task B, Avg."""
    return dict(zip(METRICS, values, strict=True))


VGG_ENDPOINTS = (
    Row("model_a", "Model A", published=published(58.65, 98.77, 17.31, 58.03)),
    Row("model_b", "Model B", published=published(53.97, 10.60, 98.63, 54.61)),
    Row(
        "interpolation", "Weight interpolation", "interpolation",
        published=published(25.44, 18.58, 32.50, 25.54),
    ),
)  # fmt: skip
"""The rows that the paper's tables of the VGG on MNIST have in common."""
ENDPOINTS = tuple(dataclasses.replace(entry, published={}) for entry in VGG_ENDPOINTS)


def paper_row(name: str, title: str, values: Sequence[float] = (), **options: Any) -> Row:
    """A row of AutoFusion in the paper's settings, but for some."""
    known = published(*values) if values else {}
    return Row(name, title, "autofusion_paper", options, published=known)


def settings(
    base: str, name: str, *, repeats: int, pairs: int = 2, labels: str = "disjoint", **changes: Any
) -> TableConfig:
    """The settings of a panel: those of a named config, with the pairs and keys of a report.

    Args:
        base: name of the config.
        name: what the panel is called.
        repeats: keys for each pair.
        pairs: endpoint pairs.
        labels: the label protocol.
        changes: other fields, a dot written as two underscores: `merge__epochs=16`.
    """
    config = get_named_config(base)
    config = TableConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    config.name, config.seed, config.pairs = name, SEED, pairs
    config.merge.repeats, config.task.labels = repeats, labels
    for path, value in changes.items():
        *owners, field = path.split("__")
        owner: Any = config
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, field, value)
    return config


def caption(*about: str) -> Callable[[TableConfig, Mapping[str, Summary]], list[str]]:
    """A caption: what was run by the settings, then what is to be said of this table."""

    def write(config: TableConfig, rows: Mapping[str, Summary]) -> list[str]:
        said = [training(config), tasks(config), endpoints(rows), protocol(config)]
        said += [merging(config), keys(config)]
        return [" ".join(["Ours:", *(text for text in said if text)]), *about]

    return write


def protocol_sweep(name: str, title: str, x_title: str, rows: Mapping[float, str]) -> Sweep:
    """A figure of the rows (x -> name) of two panels, one for each label protocol."""
    series = {f"{labels} labels": [Point(x, row, labels) for x, row in rows.items()] for labels in PROTOCOLS}
    levels = {f"interpolation, {labels}": Point(0, "interpolation", labels) for labels in PROTOCOLS}
    return Sweep(name, f"{title} (VGG, MNIST)", x_title, series, levels)


def panel(
    name: str,
    title: str,
    entries: Sequence[Row],
    get_config: Callable[[], TableConfig],
    *about: str,
    **more: Any,
) -> Panel:
    """A panel of the usual kind: endpoints of a config, the four usual columns."""
    metrics = more.pop("metrics", METRICS)
    return Panel(name, title, metrics, tuple(entries), get_config, caption(*about), open_run, **more)
