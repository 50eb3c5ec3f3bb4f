"""AdaMerging: task arithmetic whose coefficients are learned on unlabelled inputs."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.adaptive.adaptation import (
    adaptation_data,
    finite_curve,
    minimise_entropy,
)
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.per_model_inputs import Batches
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import add_merged
from autofusion_jax.programs import jit_by_network
from autofusion_jax.trees import flatten_by_path, is_float
from autofusion_jax.types import ApplyFn, Params

Level = Literal["layer", "task"]


@dataclasses.dataclass(frozen=True)
class AdaOptions:
    """How coefficients are learned; see `adamerging`."""

    level: str
    scale: float
    learning_rate: float
    num_steps: int
    batch_size: int
    clamp: bool


@factory
def adamerging(
    *,
    level: Level = "layer",
    scale: Positive = 0.3,
    learning_rate: Positive = 1e-3,
    num_steps: Count = 1000,
    batch_size: Count = 16,
    clamp: bool = False,
    inputs: Batches | None = None,
) -> Method:
    r"""Learn how much of each task vector to add, so that the merged network is sure of its answers:

    `base + sum_k lambda_k,l (params_k - base)` for every leaf l, `lambda` by Adam on the mean entropy
    `-sum_c p_c log(p_c + 1e-8)` of its predictions, which need no labels.

    Args:
        level: `"layer"`: a coefficient for every leaf of every network; `"task"`: one for every network.
        scale: where all coefficients start, > 0.
        learning_rate: of Adam, > 0.
        num_steps: how many steps it takes, >= 1.
        batch_size: inputs in a step, >= 1; for each network, where `inputs` are given. All are taken, in
            every step, where there are no more.
        clamp: keep coefficients in [0, 1] where they are used.
        inputs: inputs `[N, ...]` of each network's own data; the entropies of all are then added up.
            Otherwise the batch of the merge, which should hold inputs of all tasks.

    Returns:
        A method for any number of networks; needs `base`, inputs and an `apply_fn`, no spec.
        `diagnostics["coefficients"]` has `[networks]` for each leaf, or once for all; `history` the
        `entropy` of every step. `add_task_vectors_by` is its formula as a pure function, vmap-able
        over the coefficients.

    Raises:
        ValueError: an option is out of its range, or the networks do not give logits.

    References:
        Yang, Wang, Shen, Liu, Guo, Wang, Tao: AdaMerging: adaptive model merging for multi-task
        learning, ICLR 2024.

    Example:
        >>> adamerging(level="task").name
        'adamerging'
    """
    options = AdaOptions(level, scale, learning_rate, num_steps, batch_size, clamp)

    def run(task: MergeTask, key: Array) -> MergeResult:
        data = adaptation_data("adamerging", task, inputs)
        return _adapted(task, options, data, key)

    return Method("adamerging", run, max_models=None, assumes_aligned=True, needs_base=True)


def _adapted(
    task: MergeTask, options: AdaOptions, data: tuple[Array, ...], key: Key[Array, ""]
) -> MergeResult:
    base = task.require_base()
    learned, entropy = learn_coefficients(task.require_apply_fn(), options, base, task.models, data, key)
    entropy = finite_curve("adamerging", "the entropy", entropy)
    paths = [path for path, leaf in flatten_by_path(base).items() if is_float(leaf)]
    by_leaf = (
        dict(zip(paths, np.asarray(learned).T)) if options.level == "layer" else np.asarray(learned)[:, 0]
    )
    result = aligned_result(
        task, add_task_vectors_by(base, task.models, learned),
        diagnostics={"coefficients": by_leaf}, history={"entropy": entropy},
        num_learned=int(np.size(learned)),
    )  # fmt: skip
    return result


@jax.jit
def add_task_vectors_by(
    base: Params, models: Sequence[Params], coefficients: Float[Array, "models leaves"]
) -> Params:
    """`base + sum_k coefficients[k, l] (models[k] - base)` for every leaf l that is a float.

    Args:
        base: the network that all were fine-tuned from.
        models: parameters of one structure.
        coefficients: a column for every leaf, in the order of `jax.tree.leaves`; or one for all.

    Example:
        >>> base, models = {"v": jnp.zeros(1), "w": jnp.ones(1)}, [{"v": jnp.ones(1), "w": jnp.full(1, 3.0)}]
        >>> add_task_vectors_by(base, models, jnp.array([[0.5, 2.0]]))
        {'v': Array([0.5], dtype=float32), 'w': Array([5.], dtype=float32)}
    """
    return add_merged(weighed, base, models, columns_by_leaf(base, models, coefficients))


def columns_by_leaf(
    base: Params, models: Sequence[Params], coefficients: Float[Array, "models leaves"]
) -> Params:
    """The column `[models]` of every leaf that is a float, in the structure of the networks."""
    leaves, tree = jax.tree.flatten(base)
    columns = iter(jnp.broadcast_to(coefficients, (len(models), sum(map(is_float, leaves)))).T)
    return tree.unflatten([next(columns) if is_float(leaf) else jnp.zeros(len(models)) for leaf in leaves])


def weighed(deltas: Sequence[Array], factors: Float[Array, " models"]) -> Array:
    """`sum_k factors[k] * deltas[k]`."""
    return sum((factor * delta for factor, delta in zip(factors, deltas)), jnp.zeros_like(deltas[0]))


@jit_by_network(static_argnames=("options",))
def learn_coefficients(
    apply_fn: ApplyFn,
    options: AdaOptions,
    base: Params,
    models: tuple[Params, ...],
    data: tuple[Array, ...],
    key: Key[Array, ""],
) -> tuple[Float[Array, "models leaves"], Float[Array, " steps"]]:
    """Minimise the entropy of the merged network's predictions over the coefficients.

    Args:
        apply_fn: the networks' function.
        options: how.
        base: the network that all were fine-tuned from.
        models: parameters of one structure.
        data: inputs, one array or more; every step draws a batch of each.
        key: decides the batches.

    Returns:
        The coefficients, clamped if asked for, and the entropy before each step.
    """
    columns = sum(map(is_float, jax.tree.leaves(base))) if options.level == "layer" else 1
    start = jnp.full((len(models), columns), options.scale)

    def used(coefficients: Array) -> Array:
        return jnp.clip(coefficients, 0, 1) if options.clamp else coefficients

    def logits(coefficients: Array, x: Array) -> Array:
        return apply_fn(add_task_vectors_by(base, models, used(coefficients)), x)

    coefficients, entropy = minimise_entropy(
        logits, start, data, key, learning_rate=options.learning_rate, num_steps=options.num_steps,
        batch_size=options.batch_size,
    )  # fmt: skip
    return used(coefficients), entropy
