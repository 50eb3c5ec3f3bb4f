"""Concrete subspace learning: one soft mask over all task vectors, learned on unlabelled inputs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.adaptive.adamerging import (
    AdaOptions,
    Level,
    columns_by_leaf,
    learn_coefficients,
    weighed,
)
from autofusion_jax.merging.adaptive.adaptation import (
    adaptation_data,
    descend,
    finite_curve,
    mean_entropy,
)
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.per_model_inputs import Batches
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import add_merged
from autofusion_jax.programs import jit_by_network
from autofusion_jax.trees import is_float, num_params
from autofusion_jax.types import ApplyFn, Params, Scalar


@dataclasses.dataclass(frozen=True)
class ConcreteOptions:
    """How a mask is learned; see `concrete`."""

    level: str
    mask: str
    scale: float
    temperature: float
    learning_rate: float
    inner_rate: float
    num_steps: int
    batch_size: int


@factory
def concrete(
    *,
    level: Level = "layer",
    mask: Literal["soft", "hard", "sampled"] = "soft",
    scale: Positive = 0.3,
    temperature: Positive = 0.5,
    learning_rate: Positive = 1e-3,
    inner_rate: Positive = 1.0,
    num_steps: Count = 1000,
    batch_size: Count = 16,
    inputs: Batches | None = None,
) -> Method:
    """Learn which entries of the task vectors to keep, the same for all, so that the network is sure:

    `base + m / mean(m) * sum_k lambda_k,l (params_k - base)` for every leaf l. In training the mask m is
    drawn anew in every step from the binary Concrete distribution, `sigmoid((a + log u - log(1 - u)) / t)`, u
    uniform, t the temperature; its logits a, all 0 at first, by Adam on the mean entropy of predictions.

    Args:
        level: `"task"`: every `lambda` is `scale`, as in task arithmetic. `"layer"`: one for every leaf of
            every network, as in AdaMerging: in every step they take one step of gradient descent from
            `scale`, on other inputs and with the mask held fixed, before the mask is judged; and, once
            the mask is there, as many steps of AdaMerging.
        mask: which mask the result has: `"soft"`, `sigmoid(a)`; `"hard"`, 1 where `a >= 0`, else 0; or
            `"sampled"`, drawn as in training (FusionBench).
        scale: of all task vectors, or where their coefficients start, > 0.
        temperature: > 0; the lower, the nearer the drawn masks are to 0 and 1.
        learning_rate: of Adam, > 0.
        inner_rate: of the step that the coefficients take in every step of the mask, > 0.
        num_steps: how many steps the mask takes, and afterwards the coefficients, >= 1.
        batch_size: inputs in a step, >= 1; for each network, where `inputs` are given.
        inputs: as in `adamerging`.

    Returns:
        A method for any number of networks; needs `base`, inputs and an `apply_fn`, no spec.
        `diagnostics["mask"]` is the mask, `diagnostics["coefficients"]` has a column for every leaf that is
        a float, and `history` the `entropy` of every step. `add_masked` is its formula as a pure function.

    Raises:
        ValueError: an option is out of its range, or the networks do not give logits.

    References:
        Tang, Shen, Luo, Ding, Hu, Du, Chen, Tao: Concrete subspace learning based interference
        elimination for multi-task model fusion, 2023; Maddison, Mnih, Teh: The Concrete distribution,
        ICLR 2017.

    Example:
        >>> concrete(level="task").name
        'concrete'
    """
    options = ConcreteOptions(
        level, mask, scale, temperature, learning_rate, inner_rate, num_steps, batch_size
    )

    def run(task: MergeTask, key: Array) -> MergeResult:
        data = adaptation_data("concrete", task, inputs)
        return _masked(task, options, data, key)

    return Method("concrete", run, max_models=None, assumes_aligned=True, needs_base=True)


def _masked(
    task: MergeTask, options: ConcreteOptions, data: tuple[Array, ...], key: Key[Array, ""]
) -> MergeResult:
    base = task.require_base()
    mask, coefficients, entropies = learn_mask(task.require_apply_fn(), options, base, task.models, data, key)
    curve = finite_curve("concrete", "the entropy", jnp.concatenate(entropies))
    merged = add_masked_by(base, task.models, coefficients, mask)
    floats = [leaf for leaf in jax.tree.leaves(base) if is_float(leaf)]
    learned = num_params(floats) + (0 if options.level == "task" else int(np.size(coefficients)))
    result = aligned_result(
        task, merged, history={"entropy": curve}, num_learned=learned,
        diagnostics={
            "mask": mask, "coefficients": np.asarray(coefficients), "num_params": num_params(merged),
        },
    )  # fmt: skip
    return result


@jax.jit
def add_masked(base: Params, merged: Params, mask: Params) -> Params:
    """`base + m / mean(m) * (merged - base)`, leaf by leaf; the base where a mask keeps nothing of a leaf.

    Args:
        base: the network that all were fine-tuned from.
        merged: base plus a weighted sum of task vectors.
        mask: m, from 0 to 1, of the same structure; what it has for leaves that are no floats is not read.

    Example:
        >>> base, merged = {"w": jnp.zeros(4)}, {"w": jnp.ones(4)}
        >>> masks = {"w": jnp.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])}
        >>> jax.vmap(add_masked, (None, None, 0))(base, merged, masks)["w"].tolist()
        [[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    """

    return add_merged(lambda deltas, kept: _masked_delta(deltas[0], kept), base, [merged], mask)


@jax.jit
def add_masked_by(
    base: Params, models: Sequence[Params], coefficients: Float[Array, "models leaves"], mask: Params
) -> Params:
    """`base + m / mean(m) * sum_k coefficients[k, l] (models[k] - base)`: both formulas, rounded once.

    Args:
        base: the network that all were fine-tuned from.
        models: parameters of one structure.
        coefficients: see `add_task_vectors_by`.
        mask: see `add_masked`.
    """

    def merged(deltas: Sequence[Array], factors: Array, kept: Array) -> Array:
        return _masked_delta(weighed(deltas, factors), kept)

    return add_merged(merged, base, models, columns_by_leaf(base, models, coefficients), mask)


def _masked_delta(delta: Array, kept: Array) -> Array:
    mean = kept.mean()
    # of a complex number, of which there are two parts here, both are kept or neither
    kept = kept.reshape(*kept.shape, *(1,) * (delta.ndim - kept.ndim))
    return kept / jnp.where(mean > 0, mean, 1) * delta


def sample_mask(logits: Params, temperature: Scalar, key: Key[Array, ""]) -> Params:
    """Draw from the binary Concrete distribution: `sigmoid((logits + log u - log(1 - u)) / temperature)`.

    Args:
        logits: of each entry, any pytree of floats.
        temperature: > 0.
        key: random key.

    Example:
        >>> mask = sample_mask({"w": jnp.array([-50.0, 50.0])}, 0.5, jax.random.key(0))
        >>> mask["w"].round(3).tolist()
        [0.0, 1.0]
    """
    leaves, tree = jax.tree.flatten(logits)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.nn.sigmoid((leaf + jax.random.logistic(k, leaf.shape, leaf.dtype)) / temperature)
        for leaf, k in zip(leaves, keys)
    ]
    return tree.unflatten(drawn)


@jit_by_network(static_argnames=("options",))
def learn_mask(
    apply_fn: ApplyFn,
    options: ConcreteOptions,
    base: Params,
    models: tuple[Params, ...],
    data: tuple[Array, ...],
    key: Key[Array, ""],
) -> tuple[Params, Float[Array, "models leaves"], tuple[Float[Array, " _"], ...]]:
    """Learn a mask, and with it, if asked for, the coefficients of the task vectors.

    Args:
        apply_fn: the networks' function.
        options: how.
        base: the network that all were fine-tuned from.
        models: parameters of one structure.
        data: inputs, one array or more; every step draws batches of each.
        key: decides the batches and the masks.

    Returns:
        The mask, the coefficients, and the entropy before each step of the mask, then of the coefficients.
    """
    columns = sum(map(is_float, jax.tree.leaves(base)))
    coefficients = jnp.full((len(models), columns), options.scale)
    mask_key, last_key, ada_key = jax.random.split(key, 3)

    def entropy(coefficients: Array, mask: Params, batches: list[Array]) -> Array:
        params = add_masked_by(base, models, coefficients, mask)
        return sum((mean_entropy(apply_fn(params, x)) for x in batches), jnp.zeros(()))

    def objective(logits: Params, batches: list[Array], key: Array) -> Array:
        mask, used = sample_mask(logits, options.temperature, key), coefficients
        inner, outer = batches[: len(data)], batches[len(data) :]
        if options.level == "layer":
            fixed = jax.lax.stop_gradient(mask)
            used = coefficients - options.inner_rate * jax.grad(entropy)(coefficients, fixed, inner)
        return entropy(used, mask, outer)

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape if is_float(leaf) else ()), base)
    logits, losses = descend(
        jax.value_and_grad(objective), start, (*data, *data), mask_key,
        learning_rate=options.learning_rate, num_steps=options.num_steps, batch_size=options.batch_size,
    )  # fmt: skip
    mask = _final(options, logits, last_key)
    if options.level == "task":
        return mask, coefficients, (losses,)
    masked = tuple(add_masked(base, params, mask) for params in models)
    ada = AdaOptions(
        "layer", options.scale, options.learning_rate, options.num_steps, options.batch_size, clamp=False
    )
    coefficients, more = learn_coefficients(apply_fn, ada, base, masked, data, ada_key)
    return mask, coefficients, (losses, more)


def _final(options: ConcreteOptions, logits: Params, key: Key[Array, ""]) -> Any:
    """The mask of the result."""
    if options.mask == "sampled":
        return sample_mask(logits, options.temperature, key)
    if options.mask == "hard":
        return jax.tree.map(lambda leaf: jnp.asarray(leaf >= 0, leaf.dtype), logits)
    return jax.tree.map(jax.nn.sigmoid, logits)
