"""The optimisation of the permutation scores: whole epochs compiled, repeats side by side."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Key

from autofusion_jax.batching import batch_models
from autofusion_jax.merging.autofusion.losses import align_loss, balance, layer_weights, retain_loss
from autofusion_jax.merging.autofusion.options import Options
from autofusion_jax.merging.autofusion.parametrise import init_log_alpha, log_soft_perms
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.merging.teachers import Targets
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_soft
from autofusion_jax.transport.sinkhorn import marginal_error, row_entropy
from autofusion_jax.types import ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that is static about a run: hashable, so that equal runs share one compiled program."""

    spec: PermSpec
    apply_fn: ApplyFn
    options: Options
    unroll: bool


class Data(NamedTuple):
    """The arrays that a run reads and never changes."""

    params_a: Params
    params_b: Params
    x: Array
    targets: Targets


class State(NamedTuple):
    """What one repeat carries from step to step."""

    log_alpha: dict[str, Array]
    opt_state: optax.OptState
    key: Array


def steps_per_epoch(options: Options, num_samples: int) -> int:
    """Batches that cover all samples once; the last is filled up from the start of the epoch."""
    return -(-num_samples // min(options.batch_size, num_samples))


def make_optimizer(options: Options, num_samples: int) -> optax.GradientTransformation:
    """The optimizer under its cosine schedule from `learning_rate` to `final_learning_rate`."""
    steps = options.epochs * steps_per_epoch(options, num_samples)
    alpha = options.final_learning_rate / options.learning_rate
    return options.optimizer(optax.cosine_decay_schedule(options.learning_rate, steps, alpha))


def init_states(problem: Problem, num_samples: int, keys: Key[Array, " repeats"]) -> State:
    """Draw the initial state of every repeat; all leaves get a leading axis `[repeats]`."""
    optimizer = make_optimizer(problem.options, num_samples)

    def one(key: Array) -> State:
        init_key, key = jax.random.split(key)
        log_alpha = init_log_alpha(problem.spec, init_key, scale=problem.options.init_scale)
        return State(log_alpha, optimizer.init(log_alpha), key)

    return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnames=("problem",))
def run_epochs(problem: Problem, states: State, data: Data, epochs: Array) -> tuple[State, dict[str, Array]]:
    """Optimise all repeats for the given epochs, in one program.

    Pure: jit-able and vmap-able. `run_epochs(0..9)` is the same as `0..4`, then `5..9`.

    Args:
        problem: the static part.
        states: states of all repeats, leading axis `[repeats]`.
        data: networks, inputs and targets, shared by all repeats.
        epochs: numbers of the epochs to run, `[k]`.

    Returns:
        The new states and the history: `align`, `retain`, `kept` (means over the epoch),
        `row_entropy` (mean over groups, nats) and `marginal_error` (worst group) at its end,
        each `[k, repeats]`.
    """
    options, num_samples = problem.options, data.x.shape[0]
    optimizer = make_optimizer(options, num_samples)
    num_steps = steps_per_epoch(options, num_samples)

    def one_step(state: State, index: Array, gamma: Array, epoch: Array) -> tuple[State, dict[str, Array]]:
        objective = functools.partial(_objective, problem, data, index, gamma, epoch)
        grads, record = jax.grad(objective, has_aux=True)(state.log_alpha)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.log_alpha)
        log_alpha = jax.tree.map(jnp.add, state.log_alpha, updates)
        return State(log_alpha, opt_state, state.key), record

    def one_epoch(states: State, epoch: Array) -> tuple[State, dict[str, Array]]:
        draw = functools.partial(_draw_epoch, options, num_samples, num_steps, epoch)
        index, gamma = jax.vmap(draw)(states.key)  # [repeats, steps, batch], [repeats, steps]

        def step(states: State, draws: tuple[Array, Array]) -> tuple[State, dict[str, Array]]:
            run = batch_models(lambda s, i, g: one_step(s, i, g, epoch), unroll=problem.unroll)
            return run(states, *draws)

        states, records = jax.lax.scan(step, states, (index.swapaxes(0, 1), gamma.swapaxes(0, 1)))
        means = {name: record.mean(0) for name, record in records.items()}
        return states, {**means, **jax.vmap(functools.partial(_end_of_epoch, options))(states.log_alpha)}

    return jax.lax.scan(one_epoch, states, epochs)


def _draw_epoch(
    options: Options, num_samples: int, num_steps: int, epoch: Array, key: Array
) -> tuple[Array, Array]:
    """Draw the batches and the gammas of one epoch of one repeat."""
    order_key, gamma_key = jax.random.split(jax.random.fold_in(key, epoch))
    batch = min(options.batch_size, num_samples)
    order = jnp.resize(jax.random.permutation(order_key, num_samples), (num_steps, batch))
    if options.gamma == "uniform":
        return order, jax.random.uniform(gamma_key, (num_steps,))
    return order, jnp.full((num_steps,), options.merge_gamma)


def _objective(
    problem: Problem, data: Data, index: Array, gamma: Array, epoch: Array, log_alpha: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """The balanced loss of one batch (Eq. 15, 16, 20-22) and what to record of it."""
    options, spec = problem.options, problem.spec
    log_soft = log_soft_perms(
        log_alpha, tau=options.tau, num_iters=options.num_iters, implicit=options.implicit
    )
    permuted_b = apply_soft(spec, data.params_b, {name: jnp.exp(s) for name, s in log_soft.items()})
    weights = layer_weights(len(spec.layers), options.layer_weighting)
    align = align_loss(spec, data.params_a, permuted_b, weights)
    logits = problem.apply_fn(interpolate(data.params_a, permuted_b, gamma), data.x[index])
    keep = data.targets.keep[index]
    retain = retain_loss(logits, data.targets.probs[index], keep)
    loss = balance(
        align, retain, strategy=options.strategy, omega_a=options.omega_a, omega_r=options.omega_r,
        switch_every=options.switch_every, epoch=epoch,
    )  # fmt: skip
    return loss, {"align": align, "retain": retain, "kept": keep.mean()}


def _end_of_epoch(options: Options, log_alpha: dict[str, Array]) -> dict[str, Array]:
    log_soft = log_soft_perms(log_alpha, tau=options.tau, num_iters=options.num_iters)
    soft = [jnp.exp(scores) for scores in log_soft.values()]
    entropy = jnp.mean(jnp.stack([row_entropy(p).mean() for p in soft]))
    error = jnp.max(jnp.stack([marginal_error(p).max() for p in soft]))
    return {"row_entropy": entropy, "marginal_error": error}
