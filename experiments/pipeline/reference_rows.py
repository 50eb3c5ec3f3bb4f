"""The rows beside the merges: endpoints, teachers, controls without a merge, and real labels."""

import functools
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.batching import predict
from autofusion_jax.evaluation.networks import Network, SideBySide
from autofusion_jax.merging.api import merge_many
from autofusion_jax.merging.distillation import DistilOptions, distil_network
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.trees import num_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from pipeline.controls import ridge_head, tune_adapters
from pipeline.endpoints import Pair, network_path
from pipeline.split import MODEL_ROLES

# A fresh network gains from long training: it gets as many epochs as `prune_concat_distill` in all, and its
# augmentation. Those that start trained do with less.
FROM_SCRATCH = DistilOptions(epochs=30, learning_rate=1e-3, batch_size=64)
FROM_AVERAGE = DistilOptions(epochs=5, learning_rate=3e-4, batch_size=32)
ADAPTERS = DistilOptions(epochs=5, learning_rate=3e-3, batch_size=32)
RANK = 4
ENSEMBLE = "ensemble"
"""The row of all networks side by side: one head for each task."""

Made = tuple[Params, int]
"""The parameters of one network of the architecture, and how many numbers were learned."""


def _trained(pair: Pair, role: str, params: Params, seconds: float) -> list[Network]:
    path = os.path.abspath(network_path(pair.run, pair.split, role))
    apply_fn = pair.run.model.apply
    return [Network(params, apply_fn, num_learned=num_params(params), seconds=seconds, kept_at=path)]


def _endpoint(pair: Pair, *, place: int) -> list[Network]:
    count = len(pair.models)
    require(place < count, "merge", "references", f"one of {count} endpoints", MODEL_ROLES[place])
    return _trained(pair, pair.split.roles[place], pair.models[place], pair.seconds[place])


def _real_labels(pair: Pair) -> list[Network]:
    params, seconds = pair.train("real_labels")
    return _trained(pair, "real_labels", params, seconds)


def _start(pair: Pair) -> list[Network]:
    return [Network(pair.start, pair.run.model.apply)]


def _ensemble(pair: Pair) -> list[Network]:
    """All networks side by side, each for its own task."""
    members = SideBySide(pair.run.model.apply)
    result = MergeResult(pair.models, members, num_heads=len(pair.models))
    return [Network(pair.models, members, result=result, storable=False)]


def _teacher(pair: Pair, *, method: str) -> list[Network]:
    start = time.perf_counter()
    result = merge_many(pair.models, pair.spec, pair.x, method=method)
    params = jax.block_until_ready(result.params)
    apply_fn = result.apply_fn or pair.run.model.apply
    return [Network(params, apply_fn, seconds=time.perf_counter() - start, storable=False)]


def _made(pair: Pair, *, make: Callable[[Pair, Array], Made]) -> list[Network]:
    """Time what makes one network of the architecture."""
    start = time.perf_counter()
    key = jax.random.fold_in(jax.random.key(pair.split.seed), 200)
    params, learned = jax.block_until_ready(make(pair, key))
    seconds = time.perf_counter() - start
    return [Network(params, pair.run.model.apply, num_learned=learned, seconds=seconds)]


def _ridge_head(pair: Pair, _: Array) -> Made:
    """A's body with a ridge-regressed head on pseudo-labels: what any merge must beat."""
    model, probs = pair.run.model, pair.pseudo_labels
    labels = jax.nn.one_hot(probs.argmax(-1), probs.shape[-1])
    kernel, bias = ridge_head(predict(model.features, pair.params_a, pair.x), labels)
    return model.with_head(pair.params_a, kernel, bias), kernel.size + bias.size


def _random_network(pair: Pair, key: Array) -> Made:
    """A fresh network trained on pseudo-labels: how much of the endpoints' weights is needed at all."""
    init_key, key = jax.random.split(key)
    params = pair.run.model.init(init_key)
    return _distilled(pair, params, pair.pseudo_labels, FROM_SCRATCH, key)


def _distillation(pair: Pair, key: Array) -> Made:
    """Pseudo-labels distilled into all weights of the activation-matched average."""
    return _distilled(pair, pair.average, pair.pseudo_labels, FROM_AVERAGE, key)


def _finetuning(pair: Pair, key: Array) -> Made:
    """The same start, and the real labels of the same inputs."""
    return _distilled(pair, pair.average, _one_hot(pair), FROM_AVERAGE, key)


def _lora(pair: Pair, key: Array) -> Made:
    """The same start and labels, through low-rank adapters (Hu et al. 2022)."""
    params, _, learned = tune_adapters(
        pair.spec, pair.average, pair.x, _one_hot(pair), ADAPTERS, rank=RANK, key=key
    )
    return params, learned


def _distilled(pair: Pair, start: Params, probs: Array, options: DistilOptions, key: Array) -> Made:
    params, _ = distil_network(pair.spec, start, pair.x, probs, options, key=key)
    return params, num_params(params)


def _one_hot(pair: Pair) -> Array:
    return jax.nn.one_hot(jnp.asarray(pair.y), pair.pseudo_labels.shape[-1])


REFERENCE_ROWS: dict[str, Callable[[Pair], list[Network]]] = {
    **{role: functools.partial(_endpoint, place=place) for place, role in enumerate(MODEL_ROLES)},
    "start": _start,
    ENSEMBLE: _ensemble,
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
