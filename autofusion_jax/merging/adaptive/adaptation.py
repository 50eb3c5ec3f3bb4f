"""Test-time adaptation to unlabelled inputs: the entropy, the batches, and the loop of Adam."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Key, Shaped

from autofusion_jax.merging.checks import Batch
from autofusion_jax.merging.ensembles.members import logits_shape
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.per_model_inputs import inputs_of_each
from autofusion_jax.precision import wide_dtype
from autofusion_jax.validation import require

Schedule = Callable[[Any], Any] | float
State = Any
"""A pytree of float arrays."""


def mean_entropy(logits: Float[Array, "*batch classes"]) -> Float[Array, ""]:
    """`-sum_c p_c log(p_c + 1e-8)`, the mean over all predictions, in nats.

    Example:
        >>> round(float(mean_entropy(jnp.zeros((3, 4)))), 3)  # log 4
        1.386
    """
    # 1e-8 is zero in float16, and so would be the probability that it is added to
    probs = jax.nn.softmax(logits.astype(wide_dtype(logits.dtype)))
    return -(probs * jnp.log(probs + 1e-8)).sum(-1).mean()


def adaptation_data(caller: str, task: MergeTask, inputs: Sequence[Batch] | None) -> tuple[Array, ...]:
    """What networks are adapted to: the inputs of each network's own data, or the batch of the merge.

    Args:
        caller: the method, for messages.
        task: what is merged.
        inputs: for each network inputs `[N, ...]`, or None.

    Raises:
        ValueError: there are no inputs, they do not fit, or the networks do not give logits.
    """
    data = (
        (task.require_x(),) if inputs is None else tuple(x for x, _ in inputs_of_each(caller, task, inputs))
    )
    logits_shape(caller, dataclasses.replace(task, x=data[0]))
    return data


def draw(key: Key[Array, ""], x: Shaped[Array, "N ..."], size: int) -> Shaped[Array, "batch ..."]:
    """`size` different rows of an array, or all, in their order, where there are no more."""
    return x if size >= len(x) else jax.random.choice(key, x, (size,), replace=False)


def descend(
    gradient: Callable[[State, list[Any], Key[Array, ""]], tuple[Any, State]],
    start: State,
    data: Sequence[Any],
    key: Key[Array, ""],
    *,
    learning_rate: Schedule,
    num_steps: int,
    batch_size: int,
) -> tuple[State, Any]:
    """Take steps of Adam, each on a fresh batch of every data set.

    Args:
        gradient: takes the state, one batch of each data set, and a key; returns what is to be recorded,
            and the gradient.
        start: where to start.
        data: for each data set an array `[N, ...]`, or a pytree of such with the same `N`.
        key: decides the batches, and what `gradient` draws.
        learning_rate: of Adam, a number or a function of the step.
        num_steps: how many steps.
        batch_size: how many rows a batch has; all, where there are no more.

    Returns:
        Where it ends, and the records of all steps, stacked.
    """
    optimizer = optax.adam(learning_rate)

    def step(state: tuple[State, optax.OptState], key: Array):
        position, opt_state = state
        keys = jax.random.split(key, len(data))
        batches = [
            jax.tree.map(functools.partial(draw, k, size=batch_size), each) for k, each in zip(keys, data)
        ]
        record, grads = gradient(position, batches, jax.random.fold_in(key, len(data)))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (jax.tree.map(jnp.add, position, updates), opt_state), record

    keys = jax.random.split(key, num_steps)
    (end, _), records = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    return end, records


def minimise_entropy(
    logits: Callable[[State, Array], Array],
    start: State,
    data: Sequence[Array],
    key: Key[Array, ""],
    *,
    learning_rate: Schedule,
    num_steps: int,
    batch_size: int,
) -> tuple[State, Float[Array, " steps"]]:
    """`descend` on the mean entropy of predictions, those of all data sets added up.

    Args:
        logits: makes logits of what is learned and of inputs.
        start: where to start.
        data: inputs `[N, ...]`, one array or more.
        key: as in `descend`, like the options.

    Returns:
        What was learned, and the entropy before each step.
    """

    def objective(learned: State, batches: list[Array]) -> Array:
        return sum((mean_entropy(logits(learned, x)) for x in batches), jnp.zeros(()))

    def gradient(learned: State, batches: list[Array], key: Array) -> tuple[Array, State]:
        return jax.value_and_grad(objective)(learned, batches)

    return descend(
        gradient, start, data, key, learning_rate=learning_rate, num_steps=num_steps, batch_size=batch_size
    )


def finite_curve(caller: str, what: str, curve: Float[Array, "steps *more"]) -> np.ndarray:
    """A curve as numpy has it.

    Args:
        caller: the method, for messages.
        what: what the curve shows.
        curve: one value, or more, for every step.

    Raises:
        ValueError: a value is NaN or infinite; names the first step.
    """
    values = np.asarray(curve)
    finite = np.isfinite(values).reshape(len(values), -1).all(-1)
    first = int(np.argmin(finite))
    got = f"{values[first]} in step {first}"
    require(bool(finite.all()), caller, what, "finite", got, "Lower the learning rate.")
    return values
