"""A training loop that compiles segments of steps, and can stop and go on after any of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require, unknown_name

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": functools.partial(optax.adam, 1.0),
    "sgd": functools.partial(optax.sgd, 1.0, momentum=0.9),
}


@dataclasses.dataclass
class TrainOptions:
    """How to train a network.

    Attributes:
        epochs: passes over the training images, >= 1.
        batch_size: images per step, >= 1.
        learning_rate: at the start; falls to 0 along a cosine.
        optimizer: a key of `OPTIMIZERS`.
        segment: steps per compiled call; progress and checkpoints come at its ends.
    """

    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    segment: int = 100

    def check(self) -> None:
        """Raise ValueError for a value out of its range."""
        for name in ("epochs", "batch_size", "segment"):
            require(getattr(self, name) >= 1, "train", name, ">= 1", getattr(self, name))
        require(self.learning_rate > 0, "train", "learning_rate", "> 0", self.learning_rate)
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("train", "optimizer", self.optimizer, OPTIMIZERS)


class TrainState(NamedTuple):
    """Everything a stopped training needs to go on."""

    params: Params
    opt_state: optax.OptState
    step: int


def init_state(params: Params, options: TrainOptions) -> TrainState:
    """The state before the first step."""
    options.check()
    return TrainState(params, OPTIMIZERS[options.optimizer]().init(params), 0)


def num_steps(num_images: int, options: TrainOptions) -> int:
    """Steps in all: whole batches of every epoch, in whole segments."""
    steps = options.epochs * max(num_images // options.batch_size, 1)
    return -(-steps // options.segment) * options.segment


def train(
    apply_fn: ApplyFn,
    state: TrainState,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    options: TrainOptions,
    seed: int,
    on_segment: Callable[[TrainState, float], None] | None = None,
) -> TrainState:
    """Train by cross-entropy over all logits, from `state` to the end.

    The order of the images depends on `seed` and the epoch alone, so a training that was
    stopped and goes on from a saved state ends in the same bits as one that was not.

    Args:
        apply_fn: returns logits `[N, classes]`.
        state: where to start; `init_state` or one that `on_segment` was given.
        images: uint8 `[N, ...]`; the network sees them divided by 255.
        labels: integers `[N]`.
        options: how to train.
        seed: seed of the order of the images.
        on_segment: called with the state and the mean loss after every segment.

    Returns:
        The final state.

    Raises:
        ValueError: the loss is NaN or infinite; names the step.
    """
    total = num_steps(len(images), options)
    pixels, classes = jnp.asarray(images), jnp.asarray(labels, jnp.int32)
    while state.step < total:
        steps = np.arange(state.step, state.step + options.segment)
        rates = options.learning_rate * 0.5 * (1 + np.cos(np.pi * steps / total))
        index = _batches(len(images), steps, options.batch_size, seed)
        params, opt_state, losses = _run_segment(
            apply_fn, options.optimizer, state.params, state.opt_state, pixels, classes,
            jnp.asarray(index), jnp.asarray(rates, jnp.float32),
        )  # fmt: skip
        losses = np.asarray(losses)
        if not np.isfinite(losses).all():
            step = int(steps[np.argmin(np.isfinite(losses))])
            raise ValueError(
                f"train: the loss must stay finite; it is NaN or infinite at step {step} of {total}. "
                f"Lower learning_rate ({options.learning_rate})."
            )
        state = TrainState(params, opt_state, state.step + options.segment)
        if on_segment:
            on_segment(state, float(losses.mean()))
    return state


def _batches(num_images: int, steps: np.ndarray, batch_size: int, seed: int) -> np.ndarray:
    """Indices `[steps, batch]` of the images of each step, by seed and epoch."""
    size = min(batch_size, num_images)
    per_epoch = num_images // size
    orders: dict[int, np.ndarray] = {}
    rows = []
    for step in steps:
        epoch, position = divmod(int(step), per_epoch)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(num_images)
        rows.append(orders[epoch][position * size : (position + 1) * size])
    return np.stack(rows).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_segment(
    apply_fn: ApplyFn,
    optimizer_name: str,
    params: Params,
    opt_state: optax.OptState,
    images: Array,
    labels: Array,
    index: Array,
    rates: Array,
) -> tuple[Params, optax.OptState, Array]:
    optimizer = OPTIMIZERS[optimizer_name]()

    def loss_fn(params: Params, x: Array, y: Array) -> Array:
        logits = apply_fn(params, x.astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry: tuple[Params, optax.OptState], draw: tuple[Array, Array]) -> tuple:
        params, opt_state = carry
        rows, rate = draw
        loss, grads = jax.value_and_grad(loss_fn)(params, images[rows], labels[rows])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        return (optax.apply_updates(params, updates), opt_state), loss

    (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), (index, rates))
    return params, opt_state, losses
