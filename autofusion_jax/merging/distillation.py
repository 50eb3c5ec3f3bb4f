"""Distillation: train weights on what a network should answer, as one compiled loop."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Key, Num

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.augmentation import Augment, augmented
from autofusion_jax.merging.corrections.reset_norm import reset_norm, stored_statistics, training_rules
from autofusion_jax.merging.teachers import retain_loss
from autofusion_jax.precision import wide, widened
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.program import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require


@dataclasses.dataclass(frozen=True)
class DistilOptions:
    """How to distil: hashable, so that equal runs share one compiled program.

    Attributes:
        epochs: passes over the inputs, >= 1.
        learning_rate: of Adam at the start, > 0; it falls to 0 along a cosine.
        batch_size: >= 1.
        augment: see `augmentation.augmented`.
    """

    epochs: Count
    learning_rate: Positive = 3e-4
    batch_size: Count = 128
    augment: Augment = "affine"


def distil(
    apply_fn: ApplyFn,
    params: Params,
    x: Num[Array, "N ..."],
    probs: Float[Array, "N classes"],
    options: DistilOptions,
    *,
    key: Key[Array, ""],
    frozen: Collection[str] = (),
) -> tuple[Params, np.ndarray]:
    """Train all float leaves by Adam on the mean cross-entropy to target distributions.

    Every epoch goes through the inputs in a new order, in batches of one size, the last filled up
    from the start of the epoch. Equal `apply_fn`, shapes and options share one compiled program.

    Args:
        apply_fn: the network; its outputs are logits `[batch, classes]`.
        params: where to start.
        x: inputs.
        probs: target distributions.
        options: how.
        key: decides the batches and the augmentation.
        frozen: paths of leaves that are not trained.

    Returns:
        The trained parameters, and the mean loss of each epoch `[epochs]`.

    Raises:
        ValueError: a loss is NaN or infinite.

    References:
        Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015.
    """
    leaves = flatten_by_path(params)
    trained = {
        path: wide(leaf)  # steps are too small for half precision, and squared gradients are zero in it
        for path, leaf in leaves.items()
        if path not in frozen and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }
    trusted = jnp.ones(len(x))  # an argument of the program: as a constant in it, it might round otherwise
    data = (x, probs, trusted)
    found, losses = _run(apply_fn, options, trained, params, data, key)
    curve = np.asarray(losses)
    bad = int(np.argmin(np.isfinite(curve)))
    got = f"{curve[bad]} in epoch {bad}"
    require(bool(np.isfinite(curve).all()), "distil", "the loss", "finite", got, "Lower the learning rate.")
    found = {path: leaf.astype(leaves[path].dtype) for path, leaf in found.items()}
    return unflatten_like(params, leaves | found), curve


@jit_by_network(static_argnames=("options",))
def _run(
    apply_fn: ApplyFn,
    options: DistilOptions,
    trained: dict[str, Array],
    params: Params,
    data: tuple[Array, Array, Array],
    key: Array,
) -> tuple[dict[str, Array], Array]:
    x, probs, trusted = data
    batch = min(options.batch_size, len(x))
    num_steps = -(-len(x) // batch)
    optimizer = optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.epochs * num_steps))
    fixed = flatten_by_path(params)

    def objective(trained: dict[str, Array], index: Array, key: Array) -> Array:
        own = {path: leaf.astype(fixed[path].dtype) for path, leaf in trained.items()}
        logits = apply_fn(unflatten_like(params, fixed | own), augmented(key, x[index], options.augment))
        return retain_loss(widened(logits), probs[index], trusted[index])

    def step(state: tuple[dict[str, Array], optax.OptState], draw: tuple[Array, Array]):
        trained, opt_state = state
        loss, grads = jax.value_and_grad(objective)(trained, *draw)
        updates, opt_state = optimizer.update(grads, opt_state, trained)
        return (jax.tree.map(jnp.add, trained, updates), opt_state), loss

    def epoch(state: tuple[dict[str, Array], optax.OptState], number: Array):
        order_key, shift_key = jax.random.split(jax.random.fold_in(key, number))
        order = jnp.resize(jax.random.permutation(order_key, len(x)), (num_steps, batch))
        state, losses = jax.lax.scan(step, state, (order, jax.random.split(shift_key, num_steps)))
        return state, losses.mean()

    (trained, _), losses = jax.lax.scan(epoch, (trained, optimizer.init(trained)), jnp.arange(options.epochs))
    return trained, losses


@dataclasses.dataclass(frozen=True)
class InTraining:
    """A network whose stored norms use the statistics of the batch, as `apply_fn(params, x)`."""

    spec: PermSpec

    def __call__(self, params: Params, x: Array) -> Array:
        """The outputs, by the statistics of this batch."""
        program = flatten_program(self.spec, params, x, caller="distil", keep_derivatives=True)
        values = program.values(params, x)
        rules, _ = training_rules(program, values, {}, program.outputs)
        return program.evaluate(program.outputs, values, rules)[0]


def distil_network(
    spec: PermSpec,
    params: Params,
    x: Num[Array, "N ..."],
    probs: Float[Array, "N classes"],
    options: DistilOptions,
    *,
    key: Key[Array, ""],
) -> tuple[Params, np.ndarray]:
    """`distil` the network of a spec, which may have BatchNorm.

    Stored statistics are not trained: each batch is normalised by its own, and at the end they are
    measured again on the inputs (`reset_norm`).

    Args:
        spec: a spec that carries an `apply_fn`.
        params: where to start.
        x: inputs.
        probs: target distributions.
        options: how.
        key: decides the batches and the augmentation.

    Returns:
        As `distil`.
    """
    network, statistics = training_network(spec, params, x)
    params, losses = distil(network, params, x, probs, options, key=key, frozen=statistics)
    return reset_norm(spec, params, x)[0] if statistics else params, losses


def training_network(spec: PermSpec, params: Params, x: Array) -> tuple[ApplyFn, frozenset[str]]:
    """A spec's network as it is trained, and the paths of the means and variances that its norms store."""
    assert spec.apply_fn is not None
    statistics = stored_statistics(spec, params, x[:2])
    return InTraining(spec) if statistics else spec.apply_fn, statistics
