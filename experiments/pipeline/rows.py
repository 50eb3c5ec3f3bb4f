"""The rows of the table: references and merges of one endpoint pair."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autofusion_jax.batching import predict
from autofusion_jax.evaluation.controls import ridge_head
from autofusion_jax.merging.api import merge, merge_repeats
from autofusion_jax.merging.registry import get_method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import num_params
from autofusion_jax.types import ApplyFn, Params
from pipeline.endpoints import Pair, Setting, get_network, network_path, to_inputs


class Outcome(NamedTuple):
    """One network to evaluate.

    Attributes:
        params: its parameters.
        apply_fn: its function.
        variant: `"soft"`, `"hard"` or None.
        repeat: number of the repeat.
        num_learned: numbers fitted to data.
        seconds: time it took to make.
        result: the merge it comes from, or None.
        kept_at: where its checkpoint already is, or None.
        storable: False if its parameters are not those of one network of the architecture.
    """

    params: Params
    apply_fn: ApplyFn
    variant: str | None = None
    repeat: int = 0
    num_learned: int = 0
    seconds: float = 0.0
    result: MergeResult | None = None
    kept_at: str | None = None
    storable: bool = True


@dataclasses.dataclass(frozen=True)
class PairContext:
    """An endpoint pair with its networks trained and its unlabelled inputs in memory."""

    setting: Setting
    pair: Pair
    params_a: Params
    params_b: Params
    seconds: tuple[float, float]
    spec: PermSpec
    x: Array

    @functools.cached_property
    def teacher(self) -> MergeResult:
        """The confidence ensemble of both endpoints."""
        return merge(self.params_a, self.params_b, self.spec, self.x, method="confidence_ensemble")


def open_pair(setting: Setting, pair: Pair) -> PairContext:
    """Train or find both endpoints of a pair."""
    (params_a, seconds_a), (params_b, seconds_b) = (
        get_network(setting, pair, role) for role in ("model_a", "model_b")
    )
    x = to_inputs(setting.dataset.train_images[pair.unlabelled])
    return PairContext(setting, pair, params_a, params_b, (seconds_a, seconds_b), setting.model.perm_spec, x)


def _trained(context: PairContext, role: str, params: Params, seconds: float) -> list[Outcome]:
    path = os.path.abspath(network_path(context.setting, context.pair, role))
    apply_fn = context.setting.model.apply
    return [Outcome(params, apply_fn, num_learned=num_params(params), seconds=seconds, kept_at=path)]


def _model_a(context: PairContext) -> list[Outcome]:
    return _trained(context, "model_a", context.params_a, context.seconds[0])


def _model_b(context: PairContext) -> list[Outcome]:
    return _trained(context, "model_b", context.params_b, context.seconds[1])


def _real_labels(context: PairContext) -> list[Outcome]:
    params, seconds = get_network(context.setting, context.pair, "real_labels")
    return _trained(context, "real_labels", params, seconds)


def _confidence(context: PairContext) -> list[Outcome]:
    start = time.perf_counter()
    result = context.teacher
    apply_fn = result.apply_fn or context.setting.model.apply
    return [Outcome(result.params, apply_fn, seconds=time.perf_counter() - start, storable=False)]


def _ridge(context: PairContext) -> list[Outcome]:
    """A's body with a ridge-regressed head on the teacher's labels: what any merge must beat."""
    start = time.perf_counter()
    model, teacher = context.setting.model, context.teacher
    log_probs = predict(teacher.apply_fn or model.apply, teacher.params, context.x)
    labels = jax.nn.one_hot(log_probs.argmax(-1), log_probs.shape[-1])
    kernel, bias = ridge_head(predict(model.features, context.params_a, context.x), labels)
    params = jax.block_until_ready(model.with_head(context.params_a, kernel, bias))
    return [
        Outcome(params, model.apply, num_learned=kernel.size + bias.size, seconds=time.perf_counter() - start)
    ]


REFERENCE_ROWS: dict[str, Callable[[PairContext], list[Outcome]]] = {
    "model_a": _model_a,
    "model_b": _model_b,
    "teacher_confidence": _confidence,
    "control_ridge_head": _ridge,
    "real_labels_training": _real_labels,
}


def merge_row(context: PairContext, name: str) -> list[Outcome]:
    """Run a merging method on a pair, all repeats in one program where it can."""
    merging = context.setting.config.merge
    options = {"epochs": merging.epochs} if name.startswith("autofusion") else {}
    method = get_method(name, **options)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(context.pair.seed), 100), merging.repeats)
    keys = keys if method.uses_key else keys[:1]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    start = time.perf_counter()
    console = context.setting.console
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{name}, seed {context.pair.seed}, {len(keys)} repeat(s)", total=None)
        results = merge_repeats(
            [context.params_a, context.params_b], context.spec, context.x, method=method, keys=keys,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip
        jax.block_until_ready([result.params for result in results])
    seconds = (time.perf_counter() - start) / len(keys)
    return [
        Outcome(params, result.apply_fn or context.setting.model.apply, variant, repeat,
                result.num_learned, seconds, result, storable=result.apply_fn == context.spec.apply_fn)
        for repeat, result in enumerate(results)
        for variant, params in (result.variants or {None: result.params}).items()
    ]  # fmt: skip


def soft_matrices(result: MergeResult, spec: PermSpec, variant: str | None) -> dict[str, np.ndarray]:
    """The matrices `[n, n]` of a result's groups, for a figure."""
    if variant == "soft":
        return {name: np.asarray(matrix) for name, matrix in result.soft_perms.items()}
    return {name: np.asarray(jnp.eye(group.size)[result.perms[name]]) for name, group in spec.groups.items()}
