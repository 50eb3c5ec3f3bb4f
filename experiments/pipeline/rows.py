"""The rows of the table: references and merges of one endpoint pair."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.evaluation.accuracy import evaluate, task_masks
from autofusion_jax.merging.api import merge_many, merge_repeats
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.registry import get_method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params
from configs.schema import Config
from data.splits import head_labels
from pipeline.endpoints import MODEL_ROLES, Pair, Setting, get_network, initial_params, to_inputs


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
        found: settings that were searched for on training data, by name.
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
    found: Mapping[str, float] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """All networks run side by side: one head each."""

    apply_fn: ApplyFn

    def __call__(self, models: Sequence[Params], x: Array) -> Array:
        """Their outputs `[networks, N, ...]`."""
        return jnp.stack([self.apply_fn(params, x) for params in models])


@dataclasses.dataclass(frozen=True)
class PairContext:
    """An endpoint pair with its networks trained and its unlabelled inputs in memory.

    Attributes:
        setting: its config, data and model.
        pair: what its seed draws.
        models: parameters of the networks, one for each task, A first.
        seconds: what their training took.
        spec: their permutation spec.
        x: the images that merges see.
        x_labels: the right logit of each `[n]`, or `[tasks, n]`, as in `Pair.train_labels`.
    """

    setting: Setting
    pair: Pair
    models: tuple[Params, ...]
    seconds: tuple[float, ...]
    spec: PermSpec
    x: Array
    x_labels: np.ndarray

    @property
    def params_a(self) -> Params:
        """The network of task A."""
        return self.models[0]

    @property
    def params_b(self) -> Params:
        """The network of task B."""
        return self.models[1]

    @functools.cached_property
    def start(self) -> Params:
        """Where the training of A started."""
        return initial_params(self.setting, self.pair, MODEL_ROLES[0])

    @functools.cached_property
    def y(self) -> np.ndarray:
        """The right logits of `x`, `[n]`: for rows with real labels, and for nothing else."""
        return head_labels(self.x_labels)

    @functools.cached_property
    def own_inputs(self) -> tuple[Array, ...]:
        """Those of `x` that are of each network's task."""
        return tuple(self.x[mask] for mask in task_masks(self.x_labels, self.pair.tasks[: len(self.models)]))

    def own_options(self, method: str | None) -> dict[str, Any]:
        """Options that give a method the inputs of each network apart."""
        return {"inputs": self.own_inputs}

    @functools.cached_property
    def pseudo_labels(self) -> Array:
        """What the EM ensemble of the endpoints says of `x`, probabilities `[n, classes]`."""
        task = MergeTask(self.models, self.spec, self.spec.apply_fn, self.x)
        return find_targets("merge", task, pseudo_labels="em", zeta=0.0).probs

    @functools.cached_property
    def average(self) -> Params:
        """The activation-matched average of the endpoints, where distillation and fine-tuning start."""
        return merge_many(self.models, self.spec, self.x, method="activation_matching").params

    def train(self, role: str) -> tuple[Params, float]:
        """Train or find the network of a role that is none of `models`, and the seconds that it took."""
        return get_network(self.setting, self.pair, role)

    def evaluate(self, outcome: Outcome) -> dict[str, Any]:
        """The accuracy of a network on the test images."""
        pair = self.pair
        return evaluate(
            outcome.apply_fn, outcome.params, self.setting.test_x, pair.test_labels, pair.tasks,
            num_heads=outcome.result.num_heads if outcome.result else 1, names=pair.names,
        )  # fmt: skip


def open_pair(setting: Setting, pair: Pair) -> PairContext:
    """Train or find the endpoints of a pair."""
    networks = [get_network(setting, pair, role) for role in pair.roles]
    models, seconds = zip(*networks)
    x = to_inputs(setting.dataset.train_images[pair.unlabelled])
    labels = pair.train_labels[..., pair.unlabelled]
    return PairContext(setting, pair, models, seconds, setting.model.perm_spec, x, labels)


def build_method(name: str, config: Config, options: Mapping[str, Any] = MappingProxyType({})) -> Method:
    """A registered method, with the config's own options for it unless `options` says otherwise."""
    return get_method(name, **{**config.method_options(name), **options})


def merge_row(context: PairContext, name: str) -> list[Outcome]:
    """Run a merging method on the networks of a pair."""
    return merge_outcomes(context, build_method(name, context.setting.config), context.models, context.x)


def merge_outcomes(
    context: PairContext,
    method: Method,
    models: Sequence[Params],
    batch: Any,
    **front_door: Any,
) -> list[Outcome]:
    """Merge networks with the keys of a pair, all repeats in one program where the method can.

    Args:
        context: the pair; gives spec, keys and console.
        method: how.
        models: which networks.
        batch: as in `autofusion_jax.merge`.
        front_door: `correction`, `align` and `base`, likewise.

    Returns:
        For each repeat one network, or one for each variant.
    """
    repeats = context.setting.config.merge.repeats if method.uses_key else 1
    keys = jax.random.split(jax.random.fold_in(jax.random.key(context.pair.seed), 100), repeats)
    start = time.perf_counter()
    results = merge_repeats(
        models, context.spec, batch, method=method, keys=keys, **front_door,
        progress=context.setting.console.is_terminal,
    )  # fmt: skip
    seconds = (time.perf_counter() - start) / repeats
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
