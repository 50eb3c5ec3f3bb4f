"""A row of a table: a method with all its options, or a network beside the merges; how it is made."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from autofusion_jax.evaluation.accuracy import evaluate, task_masks
from autofusion_jax.evaluation.networks import Network, merge_networks
from autofusion_jax.merging.method import Method
from autofusion_jax.merging.registry import get_method
from configs.schema import Config
from pipeline.endpoints import Pair
from pipeline.reference_rows import REFERENCE_ROWS

KEY_OF_MERGES = 100
"""Folded into the key of a pair's seed: the key of its merges."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table or figure, before it is run.

    Attributes:
        name: its name in `results.jsonl`.
        title: what the table calls it.
        method: registry name of the method; None for one of `REFERENCE_ROWS`, named so.
        options: options of the method.
        search: option -> values to choose from: the best average accuracy within the tasks on
            the calibration images, whose labels nothing else sees.
        published: metric -> the published accuracy in percent.
        members: places of the networks that it merges, on the images of their tasks; all if empty.
        real_labels: share of the images that the method sees, all with their real labels, in (0, 1];
            None for all images without labels.
        align: the method by which all networks are brought to A's order of units before; None for none.
        from_start: whether the base of task vectors is where A's training started.
        own_inputs: whether the method is given the images of each network's task apart, as its `inputs`.
        labelled: how many images with true labels the method sees in place of the unlabelled ones, drawn
            for all pairs alike; 0 for none.
        correction: what follows the merge, see `autofusion_jax.merge`; None for nothing.
    """

    name: str
    title: str
    method: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    search: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    members: tuple[int, ...] = ()
    real_labels: float | None = None
    align: str | None = None
    from_start: bool = False
    own_inputs: bool = False
    labelled: int = 0
    correction: str | None = None


def corrected(rows: Sequence[Row], correction: str) -> tuple[Row, ...]:
    """The same rows, every merge followed by a correction."""
    return tuple(dataclasses.replace(row, correction=correction) if row.method else row for row in rows)


def row_identity(row: Row, config: Config) -> dict[str, Any]:
    """What makes two rows the same: their method with all options, defaults too, as JSON holds it."""
    method = build_method(row.method, config, row.options) if row.method else None
    rare = {name: getattr(row, name) for name in ("align", "from_start", "own_inputs", "labelled")}
    return plain({
        "method": row.method, "options": method.options if method else {},
        "correction": row.correction if method else None, "search": row.search,
        "real_labels": row.real_labels, "members": row.members,
        **{name: value for name, value in rare.items() if value},
    })  # fmt: skip


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON holds it; a function by its name."""
    return json.loads(json.dumps(fields, default=_by_name))


def _by_name(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else f"{value.__module__}.{value.__qualname__}"


def build_method(name: str, config: Config, options: Mapping[str, Any] = MappingProxyType({})) -> Method:
    """A registered method, with the config's own options for it unless `options` says otherwise."""
    return get_method(name, **{**config.method_options(name), **options})


def num_repeats(row: Row, config: Config) -> int:
    """How many times a row is made of a pair, with other keys."""
    return config.merge.repeats if row.method and build_method(row.method, config).uses_key else 1


def make_networks(row: Row, pair: Pair) -> list[Network]:
    """Make the networks of a row: one for each repeat and variant; of several settings the best.

    The best is that of the largest mean accuracy within the tasks on the images that merges see.
    """
    if row.method is None:
        return REFERENCE_ROWS[row.name](pair)
    if not row.search:
        return _merge(row, pair)
    best, chosen, seconds = -1.0, [], 0.0
    for values in itertools.product(*row.search.values()):
        found = dict(zip(row.search, values))
        made = _merge(dataclasses.replace(row, options={**row.options, **found}), pair)
        seconds += made[0].seconds
        score = _calibration_score(pair, made[0])
        if score > best:
            best, chosen = score, [network._replace(found=found) for network in made]
    return [network._replace(seconds=seconds) for network in chosen]


def _calibration_score(pair: Pair, network: Network) -> float:
    """The mean accuracy within the tasks on the images that merges see."""
    labels, tasks = pair.x_labels, pair.split.tasks
    metrics = evaluate(network.apply_fn, network.params, pair.x, labels, tasks, num_heads=network.num_heads)
    return metrics["avg_within"]


def _merge(row: Row, pair: Pair) -> list[Network]:
    """Merge the networks of a pair as a row says, once for every key."""
    run = pair.run
    own = pair.own_options(row.method) if row.own_inputs else {}
    method = build_method(row.method or "", run.config, {**row.options, **own})
    members = list(row.members or range(len(pair.models)))
    x, y = _inputs(row, pair, members)
    key = jax.random.fold_in(jax.random.key(pair.split.seed), KEY_OF_MERGES)
    return merge_networks(
        [pair.models[place] for place in members], pair.spec, x, labels=y, method=method,
        keys=jax.random.split(key, num_repeats(row, run.config)), apply_fn=run.model.apply,
        progress=run.console.is_terminal, correction=row.correction, align=row.align,
        base=pair.start if row.from_start else None,
    )  # fmt: skip


def _inputs(row: Row, pair: Pair, members: Sequence[int]) -> tuple[Any, Any]:
    """The images that a merge sees, and their labels or None."""
    if row.labelled:
        return pair.labelled(row.labelled)
    x, y = pair.x, None
    if row.members:
        x = x[np.asarray(task_masks(pair.x_labels, pair.split.tasks)[list(members)].any(0))]
    if row.real_labels is not None:
        count = round(row.real_labels * len(x))
        x, y = x[:count], pair.y[:count]
    return x, y
