"""AutoFusion as a merging method (papers: Tian, Lai, Yue, arXiv 2410.05746)."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count, NonNegative, Positive, ShareBelowOne
from autofusion_jax.batching import predict, prefers_unrolling
from autofusion_jax.merging.augmentation import Augment
from autofusion_jax.merging.autofusion.losses import LayerWeighting, Strategy
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
from autofusion_jax.merging.autofusion.options import PAPER, Gamma, Optimizer, Options, Start
from autofusion_jax.merging.autofusion.parametrise import log_soft_perms, round_perms
from autofusion_jax.merging.corrections.reset_norm import stored_statistics
from autofusion_jax.merging.diagnostics import BALANCED
from autofusion_jax.merging.ensembles.members import known_classes
from autofusion_jax.merging.matching.activation_matching import match_activations
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import PseudoLabels, find_targets
from autofusion_jax.merging.unit_features import common_unit, in_wide
from autofusion_jax.symmetry.transform import apply_perm, apply_soft, identity_perms
from autofusion_jax.transport.sinkhorn import marginal_error
from autofusion_jax.trees import num_params
from autofusion_jax.validation import require

ORDINARY = 2.0**-10, 2.0**20
"""Sizes of weights whose `L_align` is taken as it is: steps of an optimiser may be as long as its slope."""


@factory
def autofusion(
    *,
    tau: Positive = Options.tau,
    num_iters: Count = Options.num_iters,
    implicit: bool = Options.implicit,
    pseudo_labels: PseudoLabels = Options.pseudo_labels,
    zeta: ShareBelowOne = Options.zeta,
    gamma: Gamma = Options.gamma,
    start: Start = Options.start,
    augment: Augment = Options.augment,
    strategy: Strategy = Options.strategy,
    layer_weighting: LayerWeighting = Options.layer_weighting,
    omega_a: NonNegative = Options.omega_a,
    omega_r: NonNegative = Options.omega_r,
    switch_every: Count = Options.switch_every,
    epochs: Count = Options.epochs,
    batch_size: Count = Options.batch_size,
    learning_rate: Positive = Options.learning_rate,
    final_learning_rate: Positive = Options.final_learning_rate,
    mixing_rate: Positive = Options.mixing_rate,
    optimizer: Optimizer = Options.optimizer,
    init_scale: NonNegative = Options.init_scale,
) -> Method:
    """Learn a permutation of every hidden axis of B, then fuse it with A (Eq. 11-22).

    The scores of the permutations are trained on `L_align` (Eq. 16) and `L_retain` (Eq. 21), through
    the Sinkhorn operator. No weight of either network is. The paper fuses by one number gamma
    (Eq. 15, with `S(X)^T` on the input side); this method learns, beside the permutations, how
    much of each network every unit is made of, on its own side and on the side of those that read it:
    `W[i, j] = mean_k out_k[i] in_k[j] W_k[i, j]`, 4 numbers a unit. Rows of the head start with the
    network that knows the class.

    The result holds the network fused with the soft matrices as `params` and `variants["soft"]`, and
    as `variants["hard"]` the one with the hard permutations nearest to them, for which the mixing
    weights are trained on for as long again.

    Args:
        tau: temperature of Sinkhorn, > 0. What matters is `learning_rate / tau`.
        num_iters: Sinkhorn iterations, >= 1.
        implicit: gradients of the fixed point instead of the iterations.
        pseudo_labels: who labels the inputs, `"confidence"`, `"z"` or `"em"`, which is `"z"` where it cannot
            work.
        zeta: pseudo-labels below this confidence are left out, in [0, 1).
        gamma: weight of A, in [0, 1]; `"uniform"`: drawn from U(0, 1) at every step, and 0.5 in the merged
            network; `"learned"`: weights of every unit, see above.
        start: where the scores start, `"activation_matching"` or `"random"`; random too for a spec without
            sites, written by hand.
        augment: how images are changed at every step, `"shift"`, `"affine"` or `"none"`; see
            `augmentation.augmented`.
        strategy: how the two losses are balanced, `"normalized"`, `"weighted"`, `"rounded"`, `"align"` or
            `"retain"`; see `balance`.
        layer_weighting: `"linear"`: omega(l) = 2 L / l, or `"uniform"`.
        omega_a: weight of `L_align` under `"weighted"`, >= 0.
        omega_r: weight of `L_retain` under `"weighted"`, >= 0.
        switch_every: epochs between switches under `"rounded"`, >= 1.
        epochs: passes over the inputs, >= 1.
        batch_size: inputs of a step, >= 1.
        learning_rate: of the scores at the start, > 0.
        final_learning_rate: of the scores at the end of a cosine schedule, > 0.
        mixing_rate: of the mixing weights at the start, > 0; falls by as much.
        optimizer: takes a schedule, gives a `GradientTransformation`.
        init_scale: standard deviation of the initial scores, >= 0.

    Returns:
        A method for two networks. Given labels beside the inputs, it learns from these instead
        of pseudo-labels. `diagnostics["mixing"]` holds the weights, by variant.

    Raises:
        ValueError: an unknown name, or a value out of its range.

    References:
        Tian, Lai, Yue: Wolf2Pack: The AutoFusion framework for dynamic parameter fusion, 2024,
        arXiv 2410.05746, Eq. 11-22.

    Example:
        >>> autofusion(epochs=8).name
        'autofusion'
    """
    return _method("autofusion", Options(**locals()))


@factory
def autofusion_paper(
    *,
    tau: Positive = PAPER.tau,
    num_iters: Count = PAPER.num_iters,
    implicit: bool = PAPER.implicit,
    pseudo_labels: PseudoLabels = PAPER.pseudo_labels,
    zeta: ShareBelowOne = PAPER.zeta,
    gamma: Gamma = PAPER.gamma,
    start: Start = PAPER.start,
    augment: Augment = PAPER.augment,
    strategy: Strategy = PAPER.strategy,
    layer_weighting: LayerWeighting = PAPER.layer_weighting,
    omega_a: NonNegative = PAPER.omega_a,
    omega_r: NonNegative = PAPER.omega_r,
    switch_every: Count = PAPER.switch_every,
    epochs: Count = PAPER.epochs,
    batch_size: Count = PAPER.batch_size,
    learning_rate: Positive = PAPER.learning_rate,
    final_learning_rate: Positive = PAPER.final_learning_rate,
    mixing_rate: Positive = PAPER.mixing_rate,
    optimizer: Optimizer = PAPER.optimizer,
    init_scale: NonNegative = PAPER.init_scale,
) -> Method:
    """Learn permutations as in the paper: gamma ~ U(0, 1), random start, confident pseudo-labels alone.

    The options, result and errors are those of `autofusion`; only the defaults differ.

    References:
        Tian, Lai, Yue: Wolf2Pack: The AutoFusion framework for dynamic parameter fusion, 2024,
        arXiv 2410.05746, Section 4 and Appendix B.

    Example:
        >>> autofusion_paper(epochs=8).name
        'autofusion_paper'
    """
    return _method("autofusion_paper", Options(**locals()))


def _method(name: str, options: Options) -> Method:
    def run_repeats(task: MergeTask, keys: Array) -> list[MergeResult]:
        return learn_and_fuse(name, options, task, keys)

    def run(task: MergeTask, key: Array) -> MergeResult:
        return run_repeats(task, key[None])[0]

    return Method(name, run, run_repeats)


def learn_and_fuse(
    name: str, options: Options, task: MergeTask, keys: Key[Array, " repeats"]
) -> list[MergeResult]:
    """Run AutoFusion under the given options, all keys in one program; `name` is for messages."""
    spec, apply_fn, x = task.require_perm_spec(), task.require_apply_fn(), task.require_x()
    require(len(spec.groups) > 0, name, "perm_spec", "a spec with groups to permute", "none")
    targets = find_targets(name, task, pseudo_labels=options.pseudo_labels, zeta=options.zeta)
    unroll = prefers_unrolling(apply_fn, task.models[0], x[:1])
    start = mixing = None
    if options.start == "activation_matching" and spec.sites:
        start = match_activations(spec, task.models[0], task.models[1], x)
    statistics: frozenset[str] = frozenset()
    if options.learns_mixing:
        mixing = init_mixing(spec, class_weights(task))
        statistics = stored_statistics(spec, task.models[0], x[:2])
    problem = Problem(spec, apply_fn, options, unroll, statistics)
    unit = common_unit(task.models)
    unit = 1.0 if ORDINARY[0] <= unit <= ORDINARY[1] else unit
    data = Data(task.models[0], task.models[1], x, targets, unit)
    states = init_states(problem, len(x), keys, start=start, mixing=mixing)
    states, history = _optimise(name, problem, states, data, task)
    return [
        _result(name, problem, data, jax.tree.map(operator.itemgetter(i), states),
                {key: curve[:, i] for key, curve in history.items()})
        for i in range(len(keys))
    ]  # fmt: skip


def class_weights(task: MergeTask) -> Float[Array, "networks classes"]:
    """How much each network's row of the head counts: all, where it alone knows the class."""
    logits = jnp.stack([predict(task.require_apply_fn(), params, task.require_x()) for params in task.models])
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
    soft_b, hard_b = apply_soft(spec, in_wide(data.params_b), soft), apply_perm(spec, data.params_b, hard)
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
        "doubly_stochastic": max(errors.values(), default=0.0) < BALANCED,
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
