"""The optimisation of the permutation scores: whole epochs compiled, repeats side by side."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Key

from autofusion_jax.batching import batch_models
from autofusion_jax.merging.augmentation import augmented
from autofusion_jax.merging.autofusion.losses import RELATIVE, align_loss, balance, layer_weights
from autofusion_jax.merging.autofusion.mixing import Mixing, mix
from autofusion_jax.merging.autofusion.options import Options
from autofusion_jax.merging.autofusion.parametrise import init_log_alpha, log_soft_perms
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.merging.teachers import Targets, retain_loss
from autofusion_jax.merging.unit_features import in_wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_soft
from autofusion_jax.transport.sinkhorn import marginal_error, row_entropy
from autofusion_jax.types import ApplyFn, Params, Perms


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that is static about a run: hashable, so that equal runs share one compiled program."""

    spec: PermSpec
    apply_fn: ApplyFn
    options: Options
    unroll: bool
    statistics: frozenset[str] = frozenset()


class Data(NamedTuple):
    """The arrays that a run reads and never changes.

    Attributes:
        params_a: parameters of A.
        params_b: parameters of B, in the order that the scores permute; in A's if there are none.
        x: inputs.
        targets: what the merged network should answer.
        unit: a power of two, the size of the networks' weights; 1 for weights of ordinary size.
    """

    params_a: Params
    params_b: Params
    x: Array
    targets: Targets
    unit: float | Array = 1.0


class State(NamedTuple):
    """What one repeat carries from step to step.

    Attributes:
        learned: `log_alpha`, the scores by group; `mixing`, see `mixing.Mixing`; or one of them.
        opt_state: that of the optimizer.
        key: decides batches, gammas and augmentation.
    """

    learned: dict[str, Any]
    opt_state: optax.OptState
    key: Array


def steps_per_epoch(options: Options, num_samples: int) -> int:
    """Batches that cover all samples once; the last is filled up from the start of the epoch."""
    return -(-num_samples // min(options.batch_size, num_samples))


def make_optimizer(options: Options, num_samples: int) -> optax.GradientTransformation:
    """Cosine schedules: of the scores from `learning_rate` to `final_learning_rate`; of the mixing weights
    from `mixing_rate`, falling by as much."""
    steps = options.epochs * steps_per_epoch(options, num_samples)
    alpha = options.final_learning_rate / options.learning_rate
    scores = options.optimizer(optax.cosine_decay_schedule(options.learning_rate, steps, alpha))
    mixing = optax.adam(optax.cosine_decay_schedule(options.mixing_rate, steps, alpha))
    return optax.multi_transform(
        {"log_alpha": scores, "mixing": mixing}, lambda learned: {name: name for name in learned}
    )


def init_states(
    problem: Problem,
    num_samples: int,
    keys: Key[Array, " repeats"],
    *,
    start: Perms | None = None,
    mixing: Mixing | None = None,
) -> State:
    """Draw the initial state of every repeat; all leaves get a leading axis `[repeats]`.

    Args:
        problem: what is static.
        num_samples: how many inputs there are.
        keys: one for each repeat.
        start: permutations near which the scores start.
        mixing: the mixing weights to start from, if they are learned.
    """
    options = problem.options
    optimizer = make_optimizer(options, num_samples)

    def one(key: Array) -> State:
        init_key, key = jax.random.split(key)
        scale, tau = options.init_scale, options.tau
        learned = {"log_alpha": init_log_alpha(problem.spec, init_key, scale=scale, start=start, tau=tau)}
        if mixing is not None:
            learned["mixing"] = mixing
        return State(learned, optimizer.init(learned), key)

    return jax.vmap(one)(keys)


def init_refining(problem: Problem, num_samples: int, mixing: Mixing, key: Key[Array, ""]) -> State:
    """The state of one repeat, `[1]` on every leaf, in which mixing weights alone are learned."""
    learned = {"mixing": mixing}
    state = State(learned, make_optimizer(problem.options, num_samples).init(learned), key)
    return jax.tree.map(lambda leaf: leaf[None], state)


@jit_by_network()
def run_epochs(problem: Problem, states: State, data: Data, epochs: Array) -> tuple[State, dict[str, Array]]:
    """Optimise all repeats for the given epochs, in one program.

    Pure: jit-able and vmap-able. `run_epochs(0..9)` is the same as `0..4`, then `5..9`.

    Args:
        problem: the static part.
        states: states of all repeats, leading axis `[repeats]`.
        data: networks, inputs and targets, shared by all repeats.
        epochs: numbers of the epochs to run, `[k]`.

    Returns:
        The new states and the history: `retain`, `kept` (means over the epoch), and where scores
        are learned `align` (likewise), `row_entropy` (mean over groups, nats) and `marginal_error`
        (worst group) at its end; each `[k, repeats]`.
    """
    options, num_samples = problem.options, data.x.shape[0]
    optimizer = make_optimizer(options, num_samples)
    num_steps = steps_per_epoch(options, num_samples)

    def one_step(state: State, draw: Draw, epoch: Array) -> tuple[State, dict[str, Array]]:
        objective = functools.partial(_objective, problem, data, draw, epoch)
        grads, record = jax.grad(objective, has_aux=True)(state.learned)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.learned)
        # Scores and mixing weights alone move: the weights of A and B are `data`, never trained.
        learned = jax.tree.map(jnp.add, state.learned, updates)
        return State(learned, opt_state, state.key), record

    def one_epoch(states: State, epoch: Array) -> tuple[State, dict[str, Array]]:
        draw = functools.partial(_draw_epoch, options, num_samples, num_steps, epoch)
        # Of an epoch's number and the key alone, so that a run in parts is the same as one at a go.
        draws = jax.vmap(draw, out_axes=1)(states.key)  # [steps, repeats, ...]

        def step(states: State, draws: Draw) -> tuple[State, dict[str, Array]]:
            return batch_models(lambda s, d: one_step(s, d, epoch), unroll=problem.unroll)(states, draws)

        states, records = jax.lax.scan(step, states, draws)
        means = {name: record.mean(0) for name, record in records.items()}
        return states, {**means, **jax.vmap(functools.partial(_end_of_epoch, options))(states.learned)}

    return jax.lax.scan(one_epoch, states, epochs)


class Draw(NamedTuple):
    """What chance decides of a step: its inputs, the weight of A, and a key of its own."""

    index: Array
    gamma: Array
    key: Array


def _draw_epoch(options: Options, num_samples: int, num_steps: int, epoch: Array, key: Array) -> Draw:
    """Draw all steps of one epoch of one repeat, `[steps, ...]` each."""
    order_key, gamma_key = jax.random.split(jax.random.fold_in(key, epoch))
    batch = min(options.batch_size, num_samples)
    order = jnp.resize(jax.random.permutation(order_key, num_samples), (num_steps, batch))
    # With uniform gammas and augmentation both read `gamma_key`: a gamma is then a function of the key that
    # changes its step's images, but not of the changes. Another key would change stored results.
    if options.gamma == "uniform":
        gamma = jax.random.uniform(gamma_key, (num_steps,))
    else:
        gamma = jnp.full((num_steps,), options.merge_gamma)
    return Draw(order, gamma, jax.random.split(gamma_key, num_steps))


def _objective(
    problem: Problem, data: Data, draw: Draw, epoch: Array, learned: dict[str, Any]
) -> tuple[Array, dict[str, Array]]:
    """The balanced loss of one batch (Eq. 15, 16, 20-22) and what to record of it."""
    options, spec, permuted_b = problem.options, problem.spec, data.params_b
    if "log_alpha" in learned:
        permuted_b = apply_soft(spec, in_wide(permuted_b), soft_perms(options, learned["log_alpha"]))
    merged = merge_permuted(problem, data.params_a, permuted_b, learned.get("mixing"), draw.gamma)
    logits = problem.apply_fn(merged, augmented(draw.key, data.x[draw.index], options.augment))
    keep = data.targets.keep[draw.index]
    retain = retain_loss(logits, data.targets.probs[draw.index], keep)
    record = {"retain": retain, "kept": keep.mean()}
    if "log_alpha" not in learned:
        return retain, record
    weights = layer_weights(len(spec.layers), options.layer_weighting)
    relative = align_loss(spec, data.params_a, permuted_b, weights, data.unit)
    # what is recorded is the loss itself; of weights of 1e18 it is more than a float holds
    align = jnp.minimum(relative * data.unit * data.unit, jnp.finfo(relative.dtype).max)
    loss = balance(
        relative if options.strategy in RELATIVE else align, retain, strategy=options.strategy,
        omega_a=options.omega_a, omega_r=options.omega_r,
        switch_every=options.switch_every, epoch=epoch,
    )  # fmt: skip
    return loss, {**record, "align": align}


def merge_permuted(
    problem: Problem, params_a: Params, permuted_b: Params, mixing: Mixing | None, gamma: float | Array
) -> Params:
    """Fuse A with B in A's order: by gamma (Eq. 15), or unit by unit."""
    if mixing is None:
        return interpolate(params_a, permuted_b, gamma)
    return mix(problem.spec, (params_a, permuted_b), mixing, problem.statistics)


def soft_perms(options: Options, log_alpha: dict[str, Array]) -> dict[str, Array]:
    """The relaxed permutations `S_tau(X)` of all groups."""
    log_soft = log_soft_perms(
        log_alpha, tau=options.tau, num_iters=options.num_iters, implicit=options.implicit
    )
    return {name: jnp.exp(scores) for name, scores in log_soft.items()}


def _end_of_epoch(options: Options, learned: dict[str, Any]) -> dict[str, Array]:
    if "log_alpha" not in learned:
        return {}
    soft = soft_perms(options, learned["log_alpha"]).values()
    entropy = jnp.mean(jnp.stack([row_entropy(p).mean() for p in soft]))
    error = jnp.max(jnp.stack([marginal_error(p).max() for p in soft]))
    return {"row_entropy": entropy, "marginal_error": error}
