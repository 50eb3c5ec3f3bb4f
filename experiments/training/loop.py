"""A training loop that compiles segments of steps, and can be resumed after any of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import integer, number, one_of
from autofusion_jax.types import ApplyFn, Params, TrainFn
from fields import check_fields, field
from training.losses import Loss, cross_entropy

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": functools.partial(optax.adam, 1.0),
    "sgd": functools.partial(optax.sgd, 1.0, momentum=0.9),
}

MAX_SHIFT = 4
"""Pixels by which augmentation shifts an image at most."""


@dataclasses.dataclass
class TrainOptions:
    """The options of training.

    Attributes:
        epochs: passes over the training images, >= 1.
        batch_size: images per step, >= 1.
        learning_rate: at the start; falls to 0 along a cosine.
        optimizer: a key of `OPTIMIZERS`.
        weight_decay: of L2 regularisation, added to the gradients of leaves with two axes or more, >= 0.
        augment: mirror images at random and shift them by up to `MAX_SHIFT` pixels.
        segment: steps per compiled call; progress and checkpoints come at its ends.
    """

    epochs: int = field(4, integer(least=1))
    batch_size: int = field(128, integer(least=1))
    learning_rate: float = field(1e-3, number(above=0))
    optimizer: str = field("adam", one_of(*OPTIMIZERS))
    weight_decay: float = field(0.0, number(least=0))
    augment: bool = False
    segment: int = field(100, integer(least=1))


class TrainState(NamedTuple):
    """The state of a training run, from which it can be resumed."""

    params: Params
    opt_state: optax.OptState
    step: int


def init_state(params: Params, options: TrainOptions) -> TrainState:
    """The state before the first step.

    Raises:
        ValueError: an option is not what it must be.
    """
    check_fields("train", options)
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
    loss: Loss = cross_entropy,
    train_fn: TrainFn | None = None,
    on_segment: Callable[[TrainState, float], None] | None = None,
) -> TrainState:
    """Train from `state` to the end, by cross-entropy over all logits unless told otherwise.

    The order of the images depends on `seed` and the epoch alone, so a training that was
    stopped and goes on from a saved state ends in the same bits as one that was not.

    Args:
        apply_fn: returns logits `[N, classes]`, or what else `loss` takes.
        state: where to start; `init_state` or one that `on_segment` was given.
        images: uint8 `[N, ...]`: the network sees them divided by 255; or inputs of another dtype, which it
            sees as they are: int32 for tokens.
        labels: integers `[N]`, or what else `loss` takes, `[N, ...]`.
        options: how to train.
        seed: seed of the order of the images and of their augmentation.
        loss: one of `training.losses`, or another function of outputs and labels.
        train_fn: the network in training mode, if that is another than `apply_fn`: returns
            logits and params with updated statistics. The gradient with respect to statistics
            must be zero, as it is where training uses the batch's own.
        on_segment: called with the state and the mean loss after every segment.

    Returns:
        The final state.

    Raises:
        ValueError: the loss is NaN or infinite; names the step.
    """
    total = num_steps(len(images), options)
    inputs, targets = jnp.asarray(images), jnp.asarray(labels)
    while state.step < total:
        steps = np.arange(state.step, state.step + options.segment)
        rates = options.learning_rate * 0.5 * (1 + np.cos(np.pi * steps / total))
        index = _batches(len(images), steps, options.batch_size, seed)
        params, opt_state, losses = _run_segment(
            train_fn or _without_statistics(apply_fn), _Rule(options.optimizer, options.weight_decay, loss),
            jax.random.key(seed) if options.augment else None, state.params, state.opt_state,
            inputs, targets, jnp.asarray(steps), jnp.asarray(index), jnp.asarray(rates, jnp.float32),
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


class _Rule(NamedTuple):
    """The options that a compiled segment depends on."""

    optimizer: str
    weight_decay: float
    loss: Loss


@functools.cache
def _without_statistics(apply_fn: ApplyFn) -> TrainFn:
    return lambda params, x: (apply_fn(params, x), params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_segment(
    train_fn: TrainFn,
    rule: _Rule,
    key: Key[Array, ""] | None,
    params: Params,
    opt_state: optax.OptState,
    images: Array,
    labels: Array,
    steps: Array,
    index: Array,
    rates: Array,
) -> tuple[Params, optax.OptState, Array]:
    optimizer = OPTIMIZERS[rule.optimizer]()

    def loss_fn(params: Params, x: Array, y: Array) -> tuple[Array, Params]:
        outputs, updated = train_fn(params, x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x)
        return rule.loss(outputs, y), updated

    def step(carry: tuple[Params, optax.OptState], draw: tuple[Array, Array, Array]) -> tuple:
        params, opt_state = carry
        number, rows, rate = draw
        x = images[rows] if key is None else augment(images[rows], jax.random.fold_in(key, number))
        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, x, labels[rows])
        if rule.weight_decay:
            grads = jax.tree.map(lambda g, p: g + rule.weight_decay * p if p.ndim > 1 else g, grads, params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        return (optax.apply_updates(updated, updates), opt_state), loss

    (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), (steps, index, rates))
    return params, opt_state, losses


def augment(images: Array, key: Key[Array, ""]) -> Array:
    """Mirror each image left to right or not, and shift it by up to `MAX_SHIFT` pixels; black enters.

    Args:
        images: `[N, height, width, channels]`.
        key: decides.
    """
    num, height, width = images.shape[:3]
    mirror_key, shift_key = jax.random.split(key)
    mirror = jax.random.bernoulli(mirror_key, shape=(num, 1))
    shifts = jax.random.randint(shift_key, (2, num, 1), 0, 2 * MAX_SHIFT + 1)
    rows = shifts[0] + jnp.arange(height)
    columns = shifts[1] + jnp.where(mirror, jnp.arange(width)[::-1], jnp.arange(width))
    border = (MAX_SHIFT, MAX_SHIFT)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    return padded[jnp.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]
