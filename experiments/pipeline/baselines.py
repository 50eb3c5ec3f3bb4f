"""The rows beside the merges: endpoints, teachers, controls without a merge, and real labels."""

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.batching import predict
from autofusion_jax.merging.api import merge_many
from autofusion_jax.merging.distillation import DistilOptions, distil_network
from autofusion_jax.trees import num_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from pipeline.controls import ridge_head, tune_adapters
from pipeline.endpoints import MODEL_ROLES, network_path
from pipeline.rows import Outcome, PairContext

# A fresh network gains from long training: it gets as many epochs as `prune_concat_distill` in all, and its
# augmentation.
# Those that start trained do with less.
FROM_SCRATCH = DistilOptions(epochs=30, learning_rate=1e-3, batch_size=64)
FROM_AVERAGE = DistilOptions(epochs=5, learning_rate=3e-4, batch_size=32)
ADAPTERS = DistilOptions(epochs=5, learning_rate=3e-3, batch_size=32)
RANK = 4

Made = tuple[Params, int]
"""The parameters of one network of the architecture, and how many numbers were learned."""


def _trained(context: PairContext, role: str, params: Params, seconds: float) -> list[Outcome]:
    path = os.path.abspath(network_path(context.setting, context.pair, role))
    apply_fn = context.setting.model.apply
    return [Outcome(params, apply_fn, num_learned=num_params(params), seconds=seconds, kept_at=path)]


def _endpoint(context: PairContext, *, place: int) -> list[Outcome]:
    count = len(context.models)
    require(place < count, "merge", "references", f"one of {count} endpoints", MODEL_ROLES[place])
    return _trained(context, context.pair.roles[place], context.models[place], context.seconds[place])


def _real_labels(context: PairContext) -> list[Outcome]:
    params, seconds = context.train("real_labels")
    return _trained(context, "real_labels", params, seconds)


def _start(context: PairContext) -> list[Outcome]:
    return [Outcome(context.start, context.setting.model.apply)]


def _teacher(context: PairContext, *, method: str) -> list[Outcome]:
    start = time.perf_counter()
    result = merge_many(context.models, context.spec, context.x, method=method)
    params = jax.block_until_ready(result.params)
    apply_fn = result.apply_fn or context.setting.model.apply
    return [Outcome(params, apply_fn, seconds=time.perf_counter() - start, storable=False)]


def _made(context: PairContext, *, make: Callable[[PairContext, Array], Made]) -> list[Outcome]:
    """Time what makes one network of the architecture."""
    start = time.perf_counter()
    key = jax.random.fold_in(jax.random.key(context.pair.seed), 200)
    params, learned = jax.block_until_ready(make(context, key))
    seconds = time.perf_counter() - start
    return [Outcome(params, context.setting.model.apply, num_learned=learned, seconds=seconds)]


def _ridge_head(context: PairContext, _: Array) -> Made:
    """A's body with a ridge-regressed head on pseudo-labels: what any merge must beat."""
    model, probs = context.setting.model, context.pseudo_labels
    labels = jax.nn.one_hot(probs.argmax(-1), probs.shape[-1])
    kernel, bias = ridge_head(predict(model.features, context.params_a, context.x), labels)
    return model.with_head(context.params_a, kernel, bias), kernel.size + bias.size


def _random_network(context: PairContext, key: Array) -> Made:
    """A fresh network trained on pseudo-labels: how much of the endpoints' weights is needed at all."""
    init_key, key = jax.random.split(key)
    params = context.setting.model.init(init_key)
    return _distilled(context, params, context.pseudo_labels, FROM_SCRATCH, key)


def _distillation(context: PairContext, key: Array) -> Made:
    """Pseudo-labels distilled into all weights of the activation-matched average."""
    return _distilled(context, context.average, context.pseudo_labels, FROM_AVERAGE, key)


def _finetuning(context: PairContext, key: Array) -> Made:
    """The same start, and the real labels of the same inputs."""
    return _distilled(context, context.average, _one_hot(context), FROM_AVERAGE, key)


def _lora(context: PairContext, key: Array) -> Made:
    """The same start and labels, through low-rank adapters (Hu et al. 2022)."""
    params, _, learned = tune_adapters(
        context.spec, context.average, context.x, _one_hot(context), ADAPTERS, rank=RANK, key=key
    )
    return params, learned


def _distilled(context: PairContext, start: Params, probs: Array, options: DistilOptions, key: Array) -> Made:
    params, _ = distil_network(context.spec, start, context.x, probs, options, key=key)
    return params, num_params(params)


def _one_hot(context: PairContext) -> Array:
    return jax.nn.one_hot(jnp.asarray(context.y), context.pseudo_labels.shape[-1])


REFERENCE_ROWS: dict[str, Callable[[PairContext], list[Outcome]]] = {
    **{role: functools.partial(_endpoint, place=place) for place, role in enumerate(MODEL_ROLES)},
    "start": _start,
    "teacher_confidence": functools.partial(_teacher, method="confidence_ensemble"),
    "teacher_z": functools.partial(_teacher, method="z_ensemble"),
    "teacher_em": functools.partial(_teacher, method="em_ensemble"),
    "control_ridge_head": functools.partial(_made, make=_ridge_head),
    "control_random_network": functools.partial(_made, make=_random_network),
    "control_distillation": functools.partial(_made, make=_distillation),
    "real_labels_finetuning": functools.partial(_made, make=_finetuning),
    "real_labels_lora": functools.partial(_made, make=_lora),
    "real_labels_training": _real_labels,
}
