"""C2M3: cycle-consistent matching of N networks through a universe, by Frank-Wolfe."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.matching.frank_wolfe import climb, evaluate, make_problem, move
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm, identity_perms, soften
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.validation import require, unknown_name

STARTS = ("identity", "random")
SINKHORN_ITERATIONS = 20


def c2m3(*, start: str = "identity", max_iters: int = 200) -> Method:
    r"""Permute N networks into a common order, all pairs at once, then average them.

    Each network s has permutations `P_l^s` from its units to those of a universe. They maximise
    `sum_{s<t} sum_l <P_l^s W_l^s P_{l-1}^sT, P_l^t W_l^t P_{l-1}^tT>` (all groups and networks
    in one step) over doubly stochastic matrices: the gradient's best permutation is an
    assignment for each group, and the objective along the way to it a polynomial of low degree,
    whose maximum is the step. Rounded to permutations at the end. Maps between two networks,
    `P^sT P^t`, are consistent over every cycle by construction.

    Two networks are matched with A's order as the universe, the pairwise algorithm of the paper:
    with both free, their steps are mirror images that cancel.

    Args:
        start: `"identity"`, as the authors do, or `"random"`: doubly stochastic matrices drawn
            with the key.
        max_iters: number of Frank-Wolfe steps after which to stop, >= 1; stops before where
            no step promises a gain of more than 1e-6 of the objective.

    Returns:
        The method. Its `alignments` lead from each network to the universe, in whose order the
        merged network is: `apply_perm(spec, models[s], alignments[s])` are the networks there.
        `history` has the `objective` after each step and the `step_size`; `diagnostics` the
        `objective` of the rounded permutations and whether the steps `converged`.

    Raises:
        ValueError: unknown start, or max_iters out of range.

    References:
        Crisostomi, Fumero, Baieri, Bernard, Rodola: C2M3: Cycle-consistent multi-model merging,
        NeurIPS 2024.
    """
    if start not in STARTS:
        raise unknown_name("c2m3", "start", start, STARTS)
    require(max_iters >= 1, "c2m3", "max_iters", ">= 1", max_iters)

    def run(task: MergeTask, key: Array) -> MergeResult:
        return _merge(task, start, max_iters, key)

    return Method("c2m3", run, uses_key=start == "random", max_models=None)


def start_at_identity(spec: PermSpec, count: int) -> dict[str, Array]:
    """Matrices `[count, *outer, n, n]` that move nothing."""
    identity = soften(spec, identity_perms(spec))
    return {name: jnp.broadcast_to(matrix, (count, *matrix.shape)) for name, matrix in identity.items()}


def _start_anywhere(spec: PermSpec, count: int, key: Key[Array, ""]) -> dict[str, Array]:
    """Doubly stochastic matrices made of noise."""
    start = start_at_identity(spec, count)
    keys = jax.random.split(key, max(len(start), 1))
    scores = {name: jax.random.normal(k, matrix.shape) for k, (name, matrix) in zip(keys, start.items())}
    return {
        name: jnp.exp(log_sinkhorn(each, tau=1.0, num_iters=SINKHORN_ITERATIONS))
        for name, each in scores.items()
    }


def _merge(task: MergeTask, start: str, max_iters: int, key: Key[Array, ""]) -> MergeResult:
    spec, count = task.require_perm_spec(), len(task.models)
    num_fixed = 1 if count == 2 else 0
    problem = make_problem(task.models, num_fixed)
    free = count - num_fixed
    begin = start_at_identity(spec, free) if start == "identity" else _start_anywhere(spec, free, key)
    soft_perms, history, converged = climb(spec, problem, begin, max_iters)
    rounded = {name: solve_assignment(matrix) for name, matrix in soft_perms.items()}
    found = [{name: perm[s] for name, perm in rounded.items()} for s in range(free)]
    alignments = (*[identity_perms(spec)] * num_fixed, *found)
    universe = [apply_perm(spec, params, perms) for params, perms in zip(task.models, alignments)]
    hard = evaluate(spec, problem, move(soft_perms, rounded, 1.0)).objective
    diagnostics = {"objective": float(hard), "iterations": len(history["step_size"]), "converged": converged}
    weights = (1 / count,) * count
    return MergeResult(
        average(universe, weights), task.apply_fn, alignments[1] if count == 2 else {}, alignments, weights,
        history=history, diagnostics=diagnostics,
    )  # fmt: skip
