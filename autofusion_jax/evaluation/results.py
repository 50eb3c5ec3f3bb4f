"""Results: one JSON line for every evaluated network, and their summary by method."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofusion_jax.arguments import AnyPath, checked
from autofusion_jax.atomic import write_text
from autofusion_jax.validation import require


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated network.

    Attributes:
        config: name of the config.
        method: registry name of the method, or the name of a row beside the merges, such as `model_a` or
            `teacher_em`.
        variant: `"soft"`, `"hard"` or None.
        pair: number of the endpoint pair, from 0.
        repeat: number of the repeat, from 0.
        seed: seed of the pair.
        metrics: those of `evaluate` that are defined, in percent; or those of a setting of its own, such as
            errors, by the same kinds of names.
        num_learned: numbers fitted to data.
        seconds: wall time it took to make, shared evenly by repeats that ran as one program.
        path: its checkpoint, relative to the folder of the results; None if not kept.
        found: settings that were searched for on training data, by name.
    """

    config: str
    method: str
    variant: str | None
    pair: int
    repeat: int
    seed: int
    metrics: dict[str, Any]
    num_learned: int
    seconds: float
    path: str | None = None
    found: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Summary:
    """The mean of a method and variant over all pairs and repeats: one line of a table.

    Attributes:
        mean: metric, as `flat_metrics` names it -> mean over pairs of the mean over repeats;
            metrics that all its results have.
        std_repeats: metric -> standard deviation over repeats, mean over pairs.
        std_pairs: metric -> standard deviation over pairs of the mean over repeats.
        num_pairs, num_repeats: how many of each.
        num_learned, seconds: means.
    """

    method: str
    variant: str | None
    mean: dict[str, float]
    std_repeats: dict[str, float]
    std_pairs: dict[str, float]
    num_pairs: int
    num_repeats: int
    num_learned: int
    seconds: float


@checked
def write_results(path: AnyPath, results: Iterable[Result]) -> None:
    """Write results as JSON lines, whole or not at all."""
    write_text(Path(path), "".join(json.dumps(dataclasses.asdict(r)) + "\n" for r in results))


@checked
def read_results(path: AnyPath) -> list[Result]:
    """Read what `write_results` wrote.

    Raises:
        ValueError: it is no text, or a line is no result; says which.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be text; {error}.") from error
    return [_read_result(f"{path}, line {number}", line) for number, line in enumerate(lines, 1)]


def _read_result(where: str, line: str) -> Result:
    try:
        result = Result(**json.loads(line))
        numbers = [result.num_learned, result.seconds, *result.found.values()]
        numbers += flat_metrics(result.metrics).values()
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where}: must be a result as JSON; {error}.") from error
    texts = [result.config, result.method, result.variant or "", result.path or ""]
    counts = [result.pair, result.repeat, result.seed]
    good = (
        all(isinstance(value, str) for value in texts)
        and all(type(value) is int for value in counts)
        and all(type(value) in (int, float) for value in numbers)
    )
    require(good, where, "its fields", "those of a result, of their types", line[:80])
    return result


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """All metrics of a result on one level; those of three tasks or more by the tasks' names.

    Example:
        >>> flat_metrics({"joint": 60.0, "tasks": {"mnist": 70.0}, "tasks_within": {"mnist": 80.0}})
        {'joint': 60.0, 'mnist': 70.0, 'mnist_within': 80.0}
    """
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            suffix = name.removeprefix("tasks")
            flat |= {f"{task}{suffix}": accuracy for task, accuracy in value.items()}
        else:
            flat[name] = value
    return flat


def summarise(results: Sequence[Result]) -> list[Summary]:
    """Summarise results by method and variant, in order of appearance."""
    keys = dict.fromkeys((r.method, r.variant) for r in results)
    return [_summary([r for r in results if (r.method, r.variant) == key]) for key in keys]


def _summary(results: Sequence[Result]) -> Summary:
    pairs = dict.fromkeys(r.pair for r in results)
    mean, std_repeats, std_pairs = {}, {}, {}
    flat = [(r.pair, flat_metrics(r.metrics)) for r in results]
    for name in (m for m in flat[0][1] if all(m in metrics for _, metrics in flat)):
        by_pair = [np.array([metrics[name] for p, metrics in flat if p == pair]) for pair in pairs]
        means = np.array([values.mean() for values in by_pair])
        mean[name] = float(means.mean())
        spreads = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in by_pair]
        std_repeats[name] = float(np.mean(spreads))
        std_pairs[name] = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return Summary(
        results[0].method, results[0].variant, mean, std_repeats, std_pairs, len(pairs),
        len(results) // len(pairs), round(np.mean([r.num_learned for r in results])),
        float(np.mean([r.seconds for r in results])),
    )  # fmt: skip
