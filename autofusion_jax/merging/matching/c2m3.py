"""C2M3: cycle-consistent matching of N networks through a universe, by Frank-Wolfe."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.symmetry.axes import Block, Concat, Factor
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import (
    apply_perm,
    apply_soft,
    identity_perms,
    soften,
)
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.types import Params, SoftPerms
from autofusion_jax.validation import require, unknown_name

STARTS = ("identity", "random")
RELATIVE_GAP = 1e-6
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
        `history` has the `objective` after each
        step and the `step_size`; `diagnostics` the rounded `objective` and whether the steps
        `converged`.

    Raises:
        ValueError: unknown start, or max_iters out of range.

    References:
        Crisostomi, Fumero, Baieri, Bernard, Rodola: C2M3: Cycle-consistent multi-model merging,
        NeurIPS 2024, Eq. 3 and Algorithm 1.
    """
    if start not in STARTS:
        raise unknown_name("c2m3", "start", start, STARTS)
    require(max_iters >= 1, "c2m3", "max_iters", ">= 1", max_iters)

    def run(task: MergeTask) -> list[MergeResult]:
        if start == "identity":
            return [_merge(task, start_at_identity(task.spec, len(task.models)), max_iters)] * len(task.keys)
        return [_merge(task, _random_start(task.spec, len(task.models), key), max_iters) for key in task.keys]

    return Method("c2m3", run, uses_key=start == "random", max_models=None)


def _merge(task: MergeTask, soft_perms: SoftPerms, max_iters: int) -> MergeResult:
    spec, count = task.spec, len(task.models)
    stacked = stack_models(task.models)
    soft_perms, history, converged = _climb(spec, stacked, soft_perms, max_iters, anchored=count == 2)
    rounded = {name: solve_assignment(matrix) for name, matrix in soft_perms.items()}
    alignments = tuple({name: perm[s] for name, perm in rounded.items()} for s in range(count))
    universe = [apply_perm(spec, params, perms) for params, perms in zip(task.models, alignments)]
    hard, _ = objective_and_gradient(spec, stacked, jax.vmap(functools.partial(soften, spec))(rounded))
    iterations = len(history["objective"])
    diagnostics = {"objective": float(hard), "iterations": iterations, "converged": converged}
    perms = alignments[1] if count == 2 else {}
    weights = (1 / count,) * count
    return MergeResult(
        average(universe, weights), task.apply_fn, perms, alignments, weights,
        history=history, diagnostics=diagnostics,
    )  # fmt: skip


def _climb(
    spec: PermSpec, stacked: Params, soft_perms: SoftPerms, max_iters: int, anchored: bool
) -> tuple[SoftPerms, dict[str, np.ndarray], bool]:
    """Frank-Wolfe: go towards the best permutations of the gradient as far as it pays.

    The first network stays where it is if `anchored`.
    """
    nodes = _chebyshev_nodes(polynomial_degree(spec))
    objectives, steps = [], []
    value, gradient = objective_and_gradient(spec, stacked, soft_perms)
    for _ in range(max_iters):
        vertices = best_permutations(spec, gradient)
        if anchored:
            vertices = {name: matrix.at[0].set(soft_perms[name][0]) for name, matrix in vertices.items()}
        if _gap(gradient, vertices, soft_perms) <= RELATIVE_GAP * max(abs(float(value)), 1e-30):
            return soft_perms, _history(objectives, steps), True
        values = objective_along(spec, stacked, soft_perms, vertices, jnp.asarray(nodes, jnp.float32))
        step = best_step(nodes, np.asarray(values, np.float64))
        if step == 0:
            return soft_perms, _history(objectives, steps), True
        soft_perms = move(soft_perms, vertices, step)
        value, gradient = objective_and_gradient(spec, stacked, soft_perms)
        objectives.append(float(value))
        steps.append(step)
    return soft_perms, _history(objectives, steps), False


def _history(objectives: list[float], steps: list[float]) -> dict[str, np.ndarray]:
    return {"objective": np.asarray(objectives), "step_size": np.asarray(steps)}


def stack_models(models: Sequence[Params]) -> Params:
    """The networks' leaves of floats, stacked in float32; the rest, which cannot be mixed, as zeros."""

    def leaf(*values: Array) -> Array:
        floats = jnp.issubdtype(jnp.result_type(values[0]), jnp.floating)
        stacked = jnp.stack(values).astype(jnp.float32)
        return stacked if floats else jnp.zeros_like(stacked)

    return jax.tree.map(leaf, *models)


def start_at_identity(spec: PermSpec, count: int) -> dict[str, Array]:
    """Matrices `[count, *outer, n, n]` that move nothing."""
    identity = soften(spec, identity_perms(spec))
    return {name: jnp.broadcast_to(matrix, (count, *matrix.shape)) for name, matrix in identity.items()}


def _random_start(spec: PermSpec, count: int, key: Key[Array, ""]) -> dict[str, Array]:
    start = start_at_identity(spec, count)
    keys = jax.random.split(key, max(len(start), 1))
    for k, (name, identity) in zip(keys, start.items()):
        scores = jax.random.normal(k, identity.shape)
        drawn = jnp.exp(log_sinkhorn(scores, tau=1.0, num_iters=SINKHORN_ITERATIONS))
        start[name] = drawn if count > 2 else drawn.at[0].set(identity[0])
    return start


def _objective(spec: PermSpec, stacked: Params, soft_perms: SoftPerms) -> Float[Array, ""]:
    """The sum over pairs of networks of their inner products, each taken to the universe."""
    moved = jax.vmap(functools.partial(apply_soft, spec))(stacked, soft_perms)
    leaves = jax.tree.leaves(moved)
    return sum((jnp.sum(leaf * (leaf.sum(0) - leaf)) / 2 for leaf in leaves), jnp.zeros(()))


@functools.partial(jax.jit, static_argnames="spec")
def objective_and_gradient(
    spec: PermSpec, stacked: Params, soft_perms: SoftPerms
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The objective and its gradient.

    Args:
        spec: the permutation spec.
        stacked: parameters, leaves `[models, ...]`.
        soft_perms: group name -> `[models, *outer, n, n]`, rows the universe's units.

    Returns:
        The objective, and the gradient in the shapes of `soft_perms`.
    """
    return jax.value_and_grad(lambda matrices: _objective(spec, stacked, matrices))(dict(soft_perms))


@functools.partial(jax.jit, static_argnames="spec")
def objective_along(
    spec: PermSpec, stacked: Params, soft_perms: SoftPerms, vertices: SoftPerms, steps: Float[Array, "steps"]
) -> Float[Array, "steps"]:
    """The objective at several steps from `soft_perms` towards `vertices`."""
    return jax.lax.map(lambda step: _objective(spec, stacked, move(soft_perms, vertices, step)), steps)


def best_permutations(spec: PermSpec, gradient: Mapping[str, Array]) -> dict[str, Array]:
    """The permutations, as matrices, along which the objective grows most."""
    return {
        name: jax.nn.one_hot(solve_assignment(gradient[name]), group.size)
        for name, group in spec.groups.items()
    }


@jax.jit
def move(soft_perms: SoftPerms, vertices: SoftPerms, step: float | Array) -> dict[str, Array]:
    """Go a part of the way from `soft_perms` to `vertices`."""
    return {name: (1 - step) * matrix + step * vertices[name] for name, matrix in soft_perms.items()}


@jax.jit
def _slope(gradient: SoftPerms, vertices: SoftPerms, soft_perms: SoftPerms) -> Array:
    parts = (jnp.sum(gradient[name] * (vertices[name] - soft_perms[name])) for name in gradient)
    return sum(parts, jnp.zeros(()))


def _gap(gradient: SoftPerms, vertices: SoftPerms, soft_perms: SoftPerms) -> float:
    """How fast the objective grows towards the vertices: 0 at a stationary point."""
    return float(_slope(gradient, vertices, soft_perms))


def polynomial_degree(spec: PermSpec) -> int:
    """The degree of the objective along a segment: two matrices for each factor that carries a group."""
    factors = (sum(_num_carrying(axis.block) for axis in leaf.axes) for leaf in spec.leaves)
    return 2 * max(factors, default=0)


def _num_carrying(block: Block) -> int:
    """How many matrices act on one entry of a block."""
    count = 0
    for term in block:
        if isinstance(term, Factor):
            count += term.group is not None
        else:
            count += max(map(_num_carrying, term.blocks if isinstance(term, Concat) else term.members))
    return count


def _chebyshev_nodes(degree: int) -> np.ndarray:
    """Points in [0, 1] that determine a polynomial of this degree."""
    return (1 - np.cos(np.pi * (2 * np.arange(degree + 1) + 1) / (2 * degree + 2))) / 2


def best_step(nodes: np.ndarray, values: np.ndarray) -> float:
    """Where on [0, 1] the polynomial through the given values is largest.

    Args:
        nodes: `degree + 1` points.
        values: the values there.

    Returns:
        The step: an end point or a root of the derivative.

    Example:
        >>> round(best_step(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.25, 0.0])), 6)  # t - t^2
        0.5
    """
    fitted = np.polynomial.Chebyshev.fit(nodes, values, len(nodes) - 1, domain=[0, 1])
    roots = fitted.deriv().roots()
    inside = roots.real[(np.abs(roots.imag) < 1e-6) & (roots.real > 0) & (roots.real < 1)]
    candidates = np.array([0.0, 1.0, *inside])
    return float(candidates[np.argmax(fitted(candidates))])
