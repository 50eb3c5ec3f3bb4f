"""AutoFusion as a merging method (papers: Tian, Lai, Yue, arXiv 2410.05746)."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.batching import prefers_unrolling
from autofusion_jax.merging.autofusion.optimise import Data, Problem, State, init_states, run_epochs
from autofusion_jax.merging.autofusion.options import Options, preset_options
from autofusion_jax.merging.autofusion.parametrise import log_soft_perms, round_perms
from autofusion_jax.merging.fuse import fuse
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.symmetry.transform import identity_perms, is_soft
from autofusion_jax.transport.sinkhorn import marginal_error
from autofusion_jax.trees import num_params
from autofusion_jax.validation import require

CONVERGED = 1e-2


def autofusion(*, preset: str = "default", **overrides: Any) -> Method:
    """Learn a permutation of every hidden axis of B, then fuse it with A (Eq. 11-22).

    Only the scores of the permutations are trained, on `L_align` (Eq. 16) and `L_retain`
    (Eq. 21), through the Sinkhorn operator. The result holds the network fused with the soft
    matrices (Eq. 15, with `S(X)^T` on the input side) as `params` and `variants["soft"]`, and
    the one with the hard permutations nearest to them as `variants["hard"]`.

    Args:
        preset: `"default"` or `"paper"`; the paper's draws gamma anew at every step.
        overrides: any of
            tau (1.0; paper: 2.0): temperature of Sinkhorn, > 0. What matters is
                learning_rate / tau.
            num_iters (20): Sinkhorn iterations, >= 1.
            implicit (False): gradients of the fixed point instead of the iterations.
            zeta (0.9): pseudo-labels below this confidence are left out, in [0, 1).
            gamma (0.5; paper: "uniform"): weight of A in [0, 1], or "uniform": drawn from
                U(0, 1) at every step, and 0.5 in the merged network.
            strategy ("normalized"): or "weighted", "rounded", "align", "retain"; see `balance`.
            layer_weighting ("linear"): omega(l) = 2 L / l, or "uniform".
            omega_a, omega_r (0.5, 0.5): weights of the losses under "weighted".
            switch_every (1): epochs between switches under "rounded".
            epochs (64), batch_size (128): passes over the inputs.
            learning_rate (1.0), final_learning_rate (0.01): ends of a cosine schedule.
            optimizer (optax.adam): takes a schedule, gives a `GradientTransformation`.
            init_scale (0.01): standard deviation of the initial scores.

    Returns:
        A method for two networks. Given labels beside the inputs, it learns from these instead
        of pseudo-labels.

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

    return Method(name, run)


def run_options(name: str, options: Options, task: MergeTask) -> list[MergeResult]:
    """Run AutoFusion under the given options; `name` is for messages."""
    require(len(task.spec.groups) > 0, name, "perm_spec", "a spec with groups to permute", "none")
    targets = find_targets(name, task, pseudo_labels=options.pseudo_labels, zeta=options.zeta)
    unroll = prefers_unrolling(task.network, task.models[0], task.inputs[:1])
    problem = Problem(task.spec, task.network, options, unroll)
    data = Data(task.models[0], task.models[1], task.inputs, targets)
    states = init_states(problem, len(task.inputs), task.keys)
    states, history = _optimise(name, problem, states, data, task)
    return [
        _result(problem, data, jax.tree.map(operator.itemgetter(i), states.log_alpha),
                {key: curve[:, i] for key, curve in history.items()})
        for i in range(len(task.keys))
    ]  # fmt: skip


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
        for key, curve in curves[-1].items():
            if not np.isfinite(curve).all():
                epoch = start + int(np.argmin(np.isfinite(curve).all(-1)))
                raise ValueError(
                    f"{name}: {key} must stay finite; it is NaN or infinite in epoch {epoch}. "
                    "Lower the learning rate or raise tau."
                )
        if task.on_progress:
            task.on_progress(start + chunk, len(epochs))
    return states, {key: np.concatenate([c[key] for c in curves]) for key in curves[0]}


def _result(
    problem: Problem, data: Data, log_alpha: dict[str, jax.Array], history: dict[str, np.ndarray]
) -> MergeResult:
    options, spec = problem.options, problem.spec
    log_soft = log_soft_perms(log_alpha, tau=options.tau, num_iters=options.num_iters)
    soft = {group: jnp.exp(scores) for group, scores in log_soft.items()}
    hard = round_perms(log_soft)
    variants = {
        "soft" if is_soft(perms) else "hard": fuse(
            data.params_a, data.params_b, perms, options.merge_gamma, spec
        )
        for perms in (soft, hard)
    }
    errors = {group: float(marginal_error(p).max()) for group, p in soft.items()}
    diagnostics = {
        "kept": float(data.targets.keep.mean()),
        "marginal_error": errors,
        "converged": max(errors.values(), default=0.0) < CONVERGED,
    }
    gamma = options.merge_gamma
    return MergeResult(
        variants["soft"], problem.apply_fn, hard, (identity_perms(spec), soft), (gamma, 1 - gamma),
        soft, variants, history, diagnostics, num_params(log_alpha),
    )  # fmt: skip
