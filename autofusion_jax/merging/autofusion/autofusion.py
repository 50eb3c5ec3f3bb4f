"""AutoFusion as a merging method (papers: Tian, Lai, Yue, arXiv 2410.05746)."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.batching import predict, prefers_unrolling
from autofusion_jax.merging.autofusion.mixing import Mixing, init_mixing
from autofusion_jax.merging.autofusion.optimise import (
    Data,
    Problem,
    State,
    init_refining,
    init_states,
    merge_permuted,
    run_epochs,
)
from autofusion_jax.merging.autofusion.options import Options, preset_options
from autofusion_jax.merging.autofusion.parametrise import log_soft_perms, round_perms
from autofusion_jax.merging.corrections.reset_norm import stored_statistics
from autofusion_jax.merging.ensembles.members import known_classes
from autofusion_jax.merging.matching.activation_matching import match_activations
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.symmetry.transform import apply_perm, apply_soft, identity_perms
from autofusion_jax.transport.sinkhorn import marginal_error
from autofusion_jax.trees import num_params
from autofusion_jax.validation import require

CONVERGED = 1e-2


def autofusion(*, preset: str = "default", **overrides: Any) -> Method:
    """Learn a permutation of every hidden axis of B, then fuse it with A (Eq. 11-22).

    The scores of the permutations are trained on `L_align` (Eq. 16) and `L_retain` (Eq. 21), through
    the Sinkhorn operator. No weight of either network is. The paper fuses by one number gamma
    (Eq. 15, with `S(X)^T` on the input side); the default learns, beside the permutations, how
    much of each network every unit is made of, on its own side and on the side of those that read it:
    `W[i, j] = mean_k out_k[i] in_k[j] W_k[i, j]`, 4 numbers a unit. Rows of the head start with the
    network that knows the class.

    The result holds the network fused with the soft matrices as `params` and `variants["soft"]`, and
    as `variants["hard"]` the one with the hard permutations nearest to them, for which the mixing
    weights are trained on for as long again.

    Args:
        preset: `"default"` or `"paper"`.
        overrides: any of (paper's value, where it differs)
            tau (1.0; paper: 2.0): temperature of Sinkhorn, > 0. What matters is
                learning_rate / tau.
            num_iters (20): Sinkhorn iterations, >= 1.
            implicit (False): gradients of the fixed point instead of the iterations.
            pseudo_labels ("em"; paper: "confidence"): who labels the inputs, a key of
                `teachers.TEACHERS`; "em" is "z" where it cannot work.
            zeta (0.0; paper: 0.9): pseudo-labels below this confidence are left out, in [0, 1).
            gamma ("learned"; paper: "uniform"): weight of A, in [0, 1]; "uniform": drawn from U(0, 1)
                at every step, and 0.5 in the merged network; "learned": see above.
            start ("activation_matching"; paper: "random"): where the scores start; random too for a
                spec without sites, written by hand.
            augment ("shift"; paper: "none"): how images are changed at every step, `"shift"`,
                `"affine"` or `"none"`; see `augmentation.augmented`.
            strategy ("normalized"): or "weighted", "rounded", "align", "retain"; see `balance`.
            layer_weighting ("linear"): omega(l) = 2 L / l, or "uniform".
            omega_a, omega_r (0.5, 0.5): weights of the losses under "weighted".
            switch_every (1): epochs between switches under "rounded".
            epochs (64), batch_size (128): passes over the inputs.
            learning_rate (0.2; paper: 1.0), final_learning_rate (0.01): ends of a cosine schedule.
            mixing_rate (0.02): the same for the mixing weights; falls by as much.
            optimizer (optax.adam): takes a schedule, gives a `GradientTransformation`.
            init_scale (0.01): standard deviation of the initial scores.

    Returns:
        A method for two networks. Given labels beside the inputs, it learns from these instead
        of pseudo-labels. `diagnostics["mixing"]` holds the weights, by variant.

    Raises:
        ValueError: unknown preset or option, or a value out of its range.

    References:
        Tian, Lai, Yue: Wolf2Pack: The AutoFusion framework for dynamic parameter fusion, 2024.

    Example:
        >>> autofusion(preset="paper", epochs=8).name
        'autofusion_paper'
    """
    options = preset_options(preset, overrides)
    name = "autofusion" if preset == "default" else f"autofusion_{preset}"

    def run(task: MergeTask) -> list[MergeResult]:
        return run_options(name, options, task)

    return Method(name, run, options={"preset": preset, **dataclasses.asdict(options)})


def run_options(name: str, options: Options, task: MergeTask) -> list[MergeResult]:
    """Run AutoFusion under the given options; `name` is for messages."""
    require(len(task.spec.groups) > 0, name, "perm_spec", "a spec with groups to permute", "none")
    targets = find_targets(name, task, pseudo_labels=options.pseudo_labels, zeta=options.zeta)
    unroll = prefers_unrolling(task.network, task.models[0], task.inputs[:1])
    start = mixing = None
    if options.start == "activation_matching" and task.spec.sites:
        start = match_activations(task.spec, task.models[0], task.models[1], task.inputs)
    statistics: frozenset[str] = frozenset()
    if options.learns_mixing:
        mixing = init_mixing(task.spec, class_weights(task))
        statistics = stored_statistics(task.spec, task.models[0], task.inputs[:2])
    problem = Problem(task.spec, task.network, options, unroll, statistics)
    data = Data(task.models[0], task.models[1], task.inputs, targets)
    states = init_states(problem, len(task.inputs), task.keys, start=start, mixing=mixing)
    states, history = _optimise(name, problem, states, data, task)
    return [
        _result(name, problem, data, jax.tree.map(operator.itemgetter(i), states),
                {key: curve[:, i] for key, curve in history.items()})
        for i in range(len(task.keys))
    ]  # fmt: skip


def class_weights(task: MergeTask) -> Float[Array, "networks classes"]:
    """How much each network's row of the head counts: all, where it alone knows the class."""
    logits = jnp.stack([predict(task.network, params, task.inputs) for params in task.models])
    known = known_classes(logits.reshape(len(task.models), -1, logits.shape[-1])).astype(jnp.float32)
    return known / known.sum(0)


def _optimise(
    name: str, problem: Problem, states: State, data: Data, task: MergeTask
) -> tuple[State, dict[str, np.ndarray]]:
    """Run all epochs: at one go, or one by one where someone wants to see the progress."""
    epochs = jnp.arange(problem.options.epochs)
    chunk = 1 if task.on_progress else len(epochs)
    curves: list[dict[str, np.ndarray]] = []
    for start in range(0, len(epochs), chunk):
        states, history = run_epochs(problem, states, data, epochs[start : start + chunk])
        curves.append({key: np.asarray(curve) for key, curve in history.items()})
        _check_finite(name, curves[-1], start)
        if task.on_progress:
            task.on_progress(start + chunk, len(epochs))
    return states, {key: np.concatenate([c[key] for c in curves]) for key in curves[0]}


def _check_finite(name: str, curves: dict[str, np.ndarray], start: int) -> None:
    for key, curve in curves.items():
        if not np.isfinite(curve).all():
            epoch = start + int(np.argmin(np.isfinite(curve).all(-1)))
            raise ValueError(
                f"{name}: {key} must stay finite; it is NaN or infinite in epoch {epoch}. "
                "Lower the learning rate or raise tau."
            )


def _result(
    name: str, problem: Problem, data: Data, state: State, history: dict[str, np.ndarray]
) -> MergeResult:
    options, spec, mixing = problem.options, problem.spec, state.learned.get("mixing")
    log_soft = log_soft_perms(state.learned["log_alpha"], tau=options.tau, num_iters=options.num_iters)
    soft = {group: jnp.exp(scores) for group, scores in log_soft.items()}
    hard = round_perms(log_soft)
    soft_b, hard_b = apply_soft(spec, data.params_b, soft), apply_perm(spec, data.params_b, hard)
    mixings = {"soft": mixing, "hard": mixing}
    if mixing is not None and options.strategy != "align":
        mixings["hard"] = _refined(name, problem, data._replace(params_b=hard_b), mixing, state.key)
    gamma = options.merge_gamma
    variants = {
        variant: merge_permuted(problem, data.params_a, params_b, mixings[variant], gamma)
        for variant, params_b in (("soft", soft_b), ("hard", hard_b))
    }
    errors = {group: float(marginal_error(p).max()) for group, p in soft.items()}
    diagnostics = {
        "kept": float(data.targets.keep.mean()),
        "marginal_error": errors,
        "converged": max(errors.values(), default=0.0) < CONVERGED,
    }
    if mixing is not None:
        diagnostics["mixing"] = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), mixings)
    return MergeResult(
        variants["soft"], problem.apply_fn, hard, (identity_perms(spec), soft), (gamma, 1 - gamma),
        soft, variants, history, diagnostics, num_params(state.learned),
    )  # fmt: skip


def _refined(name: str, problem: Problem, data: Data, mixing: Mixing, key: Array) -> Mixing:
    """Train mixing weights on, for B in its final order."""
    state = init_refining(problem, len(data.x), mixing, key)
    state, history = run_epochs(problem, state, data, jnp.arange(problem.options.epochs))
    _check_finite(name, {name: np.asarray(curve) for name, curve in history.items()}, 0)
    return jax.tree.map(operator.itemgetter(0), state.learned["mixing"])
