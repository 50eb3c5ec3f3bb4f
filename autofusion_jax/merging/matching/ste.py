"""Straight-through estimator (Git Re-Basin): weights learned that say which permutation is best."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Shaped

from autofusion_jax.arguments import Count, Positive, ShareBelowOne
from autofusion_jax.batching import predict
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.merging.matching.incremental import Piece, cut_leaves
from autofusion_jax.merging.matching.weight_matching import descend
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import (
    PseudoLabels,
    Targets,
    find_targets,
    retain_loss,
)
from autofusion_jax.precision import wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm, identity_perms
from autofusion_jax.trees import flatten_by_path, num_params, unflatten_like
from autofusion_jax.types import ApplyFn, Params, Perms
from autofusion_jax.validation import require

MOMENTUM = 0.9
MAX_SWEEPS = 100


@factory
def ste(
    *,
    gamma: ShareBelowOne = 0.5,
    epochs: Count = 20,
    batch_size: Count = 128,
    learning_rate: Positive = 1.0,
    zeta: ShareBelowOne = 0.9,
    pseudo_labels: PseudoLabels = "confidence",
) -> Method:
    r"""Learn latent weights whose weight matching with B gives the best network between A and pi(B).

    `min_\hat{theta} L(gamma theta_A + (1 - gamma) pi(theta_B))` with `pi = argmax_pi <\hat{theta},
    pi(theta_B)>`: the latent weights start at A's; in the forward pass they are replaced by B's
    under the best permutation, found by weight matching from that of the step before; the gradient
    goes to them as if they had not been. Of the start, which is plain weight matching, and the
    permutations after every epoch, those with the smallest loss over all inputs are kept.

    The steps are a loop on the host around one compiled program: assignments are made there, and
    the gradients of convolutions are slow inside of compiled loops on CPU.

    Args:
        gamma: weight of model A, in [0, 1).
        epochs: passes over the inputs, >= 1.
        batch_size: inputs per step, >= 1.
        learning_rate: of SGD with momentum 0.9 on the latent weights, > 0. The authors take 0.01
            for 12,500 steps; for some hundreds 1 does better, and what is kept cannot get worse.
        zeta: pseudo-labels below this confidence are left out, in [0, 1).
        pseudo_labels: who gives them, `"confidence"`, `"em"` or `"z"`. Given labels are used instead.

    Returns:
        A method for two networks. `history["loss"]`: over all inputs, after every epoch;
        `diagnostics`: the loss at the start and the epoch that was kept (0: the start).

    Raises:
        ValueError: an option is out of its range; the loss is NaN or infinite.

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, ICLR 2023, Section 3.3, Eq. 3.

    Example:
        >>> ste(epochs=5).name
        'ste'
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        targets = find_targets("ste", task, pseudo_labels=pseudo_labels, zeta=zeta)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return _Search(task, targets, gamma, learning_rate).run(rng, epochs, batch_size)

    return Method("ste", run)


class _Search:
    """The optimisation, and what all of its steps read."""

    def __init__(self, task: MergeTask, targets: Targets, gamma: float, learning_rate: float) -> None:
        self._task, self._targets, self._gamma = task, targets, gamma
        self._spec, self._apply_fn, self._x = (
            task.require_perm_spec(),
            task.require_apply_fn(),
            task.require_x(),
        )
        self._learning_rate = learning_rate
        self._b = cut_leaves(self._spec, task.models[1])
        self._leaves_a = flatten_by_path(task.models[0])
        floats = {p: v for p, v in self._leaves_a.items() if jnp.issubdtype(jnp.result_type(v), jnp.inexact)}
        self._start = {p: wide(v) for p, v in floats.items()}

    def run(self, rng: np.random.Generator, epochs: int, batch_size: int) -> MergeResult:
        """Take all steps."""
        task, num = self._task, len(self._x)
        latent, velocity = self._start, jax.tree.map(jnp.zeros_like, self._start)
        kept = perms = self._project(rng, latent, identity_perms(self._spec))
        losses = [self._loss(perms, "at the start")]
        for epoch in range(epochs):
            for index in _batches(rng, num, min(batch_size, num)):
                x, targets = self._x[index], jax.tree.map(lambda v, i=index: v[i], self._targets)
                grads = _gradients(self._spec, self._apply_fn, *task.models, perms, self._gamma, x, targets)
                velocity, latent = _descend(velocity, latent, grads, self._learning_rate)
                perms = self._project(rng, latent, perms)
            losses.append(self._loss(perms, f"after epoch {epoch}"))
            kept = perms if losses[-1] < min(losses[:-1]) else kept
            if task.on_progress:
                task.on_progress(epoch + 1, epochs)
        return self._result(kept, losses)

    def _project(self, rng: np.random.Generator, latent: Mapping[str, Array], start: Perms) -> Perms:
        """Weight matching of B to the latent weights."""
        spec = self._spec
        latent_pieces = cut_leaves(spec, {**self._leaves_a, **latent})
        pieces = [Piece(a, b, places) for (a, places), (b, _) in zip(latent_pieces, self._b)]
        order = rng.permuted(np.tile(np.arange(len(spec.groups)), (MAX_SWEEPS, 1)), axis=1)
        return descend(spec, pieces, order, start).perms

    def _merged(self, perms: Perms) -> Params:
        params_a, params_b = self._task.models
        return _merge(self._spec, params_a, params_b, perms, self._gamma)

    def _loss(self, perms: Perms, when: str) -> float:
        """The loss of the merged network over all inputs."""
        logits = predict(self._apply_fn, self._merged(perms), self._x)
        loss = float(retain_loss(logits, self._targets.probs, self._targets.keep))
        require(math.isfinite(loss), "ste", f"the loss {when}", "finite", loss, "Are the outputs logits?")
        return loss

    def _result(self, perms: Perms, losses: list[float]) -> MergeResult:
        alignments = (identity_perms(self._spec), perms)
        return MergeResult(
            self._merged(perms), self._task.apply_fn, perms, alignments, (self._gamma, 1 - self._gamma),
            history={"loss": np.asarray(losses[1:])},
            diagnostics={
                "start_loss": losses[0],
                "best_epoch": int(np.argmin(losses)),
                "kept": float(self._targets.keep.mean()),
            },
            num_learned=num_params(self._start),
        )  # fmt: skip


def _batches(rng: np.random.Generator, num: int, size: int) -> Int[np.ndarray, "steps batch"]:
    """All inputs once, in random order; the last batch is filled up from the start."""
    return np.resize(rng.permutation(num), (-(-num // size), size))


@jit_by_network()
def _merge(spec: PermSpec, params_a: Params, params_b: Params, perms: Perms, gamma: float | Array) -> Params:
    return interpolate(params_a, apply_perm(spec, params_b, perms), gamma)


@jit_by_network(static_argnames=("apply_fn",))
def _gradients(
    spec: PermSpec,
    apply_fn: ApplyFn,
    params_a: Params,
    params_b: Params,
    perms: Perms,
    gamma: float | Array,
    x: Shaped[Array, "batch ..."],
    targets: Targets,
) -> dict[str, Array]:
    """The loss differentiated by B's permuted weights, those that are floats."""
    permuted = apply_perm(spec, params_b, perms)
    leaves = flatten_by_path(permuted)

    def loss(values: Mapping[str, Array]) -> Float[Array, ""]:
        merged = interpolate(params_a, unflatten_like(permuted, {**leaves, **values}), gamma)
        return retain_loss(apply_fn(merged, x), targets.probs, targets.keep)

    # of a complex number JAX gives the conjugate of the direction in which the loss grows
    grads = jax.grad(loss)({p: wide(v) for p, v in leaves.items() if jnp.issubdtype(v.dtype, jnp.inexact)})
    return {path: grad.conj() for path, grad in grads.items()}


@jax.jit
def _descend(
    velocity: dict[str, Array],
    latent: dict[str, Array],
    grads: dict[str, Array],
    learning_rate: float | Array,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """One step of SGD with momentum."""
    velocity = {path: MOMENTUM * v + grads[path] for path, v in velocity.items()}
    return velocity, {path: v - learning_rate * velocity[path] for path, v in latent.items()}
