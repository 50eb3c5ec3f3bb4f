"""C2M3: cycle-consistent matching of N networks through a universe, by Frank-Wolfe."""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.unit_features import common_unit, divided, real_parts
from autofusion_jax.precision import wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.axes import Block, Concat, Factor
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm, apply_soft, identity_perms, soften
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.types import Params, Perms, SoftPerms

RELATIVE_GAP = 1e-6
"""Where no step promises a gain of this part of the objective, it has converged."""
SINKHORN_ITERATIONS = 20


@factory
def c2m3(*, start: Literal["identity", "random"] = "identity", max_iters: Count = 200) -> Method:
    r"""Permute N networks into a common order, all pairs at once, then average them.

    Each network s has permutations `P_l^s` from its units to those of a universe. They maximise
    `sum_{s<t} sum_l <P_l^s W_l^s P_{l-1}^sT, P_l^t W_l^t P_{l-1}^tT>` (all groups and networks
    in one step) over doubly stochastic matrices: the gradient's best permutation is an
    assignment for each group, and the objective along the way to it a polynomial of low degree,
    whose maximum is the step. Of complex leaves the inner product is the real part. Rounded to
    permutations at the end. Maps between two networks, `P^sT P^t`, are consistent over every cycle
    by construction.

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
    real_spec, problem, square = make_problem(spec, task.models, num_fixed)
    free = count - num_fixed
    begin = start_at_identity(spec, free) if start == "identity" else _start_anywhere(spec, free, key)
    soft_perms, history, converged = climb(real_spec, problem, begin, max_iters)
    history["objective"] = square * history["objective"]
    rounded = {name: solve_assignment(matrix) for name, matrix in soft_perms.items()}
    found = [{name: perm[s] for name, perm in rounded.items()} for s in range(free)]
    alignments = (*[identity_perms(spec)] * num_fixed, *found)
    universe = [apply_perm(spec, params, perms) for params, perms in zip(task.models, alignments)]
    hard = evaluate(real_spec, problem, move(soft_perms, rounded, 1.0)).objective
    diagnostics = {
        "objective": square * float(hard),
        "iterations": len(history["step_size"]),
        "converged": converged,
    }
    weights = (1 / count,) * count
    return MergeResult(
        average(universe, weights), task.apply_fn, alignments[1] if count == 2 else {}, alignments, weights,
        history=history, diagnostics=diagnostics,
    )  # fmt: skip


class Problem(NamedTuple):
    """The networks to be matched, as real numbers of size 1 at most; a pytree.

    Attributes:
        free: parameters of those that move, float32 or wider, leaves `[models, ...]`.
        fixed: the sum of those that stay as they are; zeros if there are none.
    """

    free: Params
    fixed: Params


def make_problem(spec: PermSpec, models: Sequence[Params], num_fixed: int) -> tuple[PermSpec, Problem, float]:
    """Put the networks into one problem; leaves that are not floats do not count.

    Args:
        spec: the permutation spec of the networks.
        models: their parameters, complex ones taken as their real and imaginary parts.
        num_fixed: the first so many networks stay as they are.

    Returns:
        The spec of the problem's networks; the problem; and by what its objective must be multiplied, as
        the networks are divided by a power of two, so that no product over- or underflows.
    """
    spec, models = real_parts(spec, models)

    def leaf(*values: Array) -> Array:
        floats = jnp.issubdtype(jnp.result_type(values[0]), jnp.floating)
        stacked = jnp.stack([wide(value) for value in values])
        return stacked if floats else jnp.zeros_like(stacked)

    stacked = jax.tree.map(leaf, *models)
    unit = common_unit([stacked])
    stacked = divided(stacked, unit)
    free = jax.tree.map(lambda leaf: leaf[num_fixed:], stacked)
    fixed = jax.tree.map(lambda leaf: leaf[:num_fixed].sum(0), stacked)
    return spec, Problem(free, fixed), unit**2


class Point(NamedTuple):
    """The objective at some soft permutations, its gradient, and the networks moved by them."""

    objective: Float[Array, ""]
    gradient: dict[str, Array]
    moved: Params


@jit_by_network()
def evaluate(spec: PermSpec, problem: Problem, soft_perms: SoftPerms) -> Point:
    """The sum over pairs of networks of their inner products, each moved to the universe.

    Args:
        spec: the permutation spec.
        problem: the networks.
        soft_perms: group name -> `[free models, *outer, n, n]`, rows the universe's units.
    """

    def objective(soft_perms: SoftPerms) -> tuple[Array, Params]:
        moved = jax.vmap(functools.partial(apply_soft, spec))(problem.free, soft_perms)
        pairs = [
            jnp.sum(leaf * ((leaf.sum(0) - leaf) / 2 + fixed))
            for leaf, fixed in zip(jax.tree.leaves(moved), jax.tree.leaves(problem.fixed))
        ]
        return sum(pairs, jnp.zeros(())), moved

    (value, moved), gradient = jax.value_and_grad(objective, has_aux=True)(dict(soft_perms))
    return Point(value, gradient, moved)


def best_permutations(gradient: Mapping[str, Array]) -> dict[str, Array]:
    """The permutations towards which the objective grows most, `[free models, *outer, n]`."""
    return {name: solve_assignment(matrix) for name, matrix in gradient.items()}


@jax.jit
def move(soft_perms: SoftPerms, perms: Perms, step: float | Array) -> dict[str, Array]:
    """Go a part of the way from `soft_perms` to permutations."""
    return {
        name: (1 - step) * matrix + step * jax.nn.one_hot(perms[name], matrix.shape[-1])
        for name, matrix in soft_perms.items()
    }


@jax.jit
def gap(gradient: SoftPerms, soft_perms: SoftPerms, perms: Perms) -> Float[Array, ""]:
    """How fast the objective grows from `soft_perms` towards permutations: 0 where none is better."""
    ahead = move(soft_perms, perms, 1.0)
    parts = (jnp.sum(gradient[name] * (ahead[name] - matrix)) for name, matrix in soft_perms.items())
    return sum(parts, jnp.zeros(()))


def nodes_of(spec: PermSpec) -> np.ndarray:
    """Points of [0, 1], both ends among them, that determine a leaf on its way as a polynomial.

    A leaf is multiplied by one matrix for each factor that carries a group; each is linear in
    the step.
    """
    factors = (sum(_num_carrying(axis.block) for axis in leaf.axes) for leaf in spec.leaves)
    degree = max(1, *factors) if spec.leaves else 1
    return (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2


def _num_carrying(block: Block) -> int:
    """How many matrices act on one entry of a block."""
    count = 0
    for term in block:
        if isinstance(term, Factor):
            count += term.group is not None
        else:
            count += max(map(_num_carrying, term.blocks if isinstance(term, Concat) else term.members))
    return count


@jit_by_network()
def products_along(
    spec: PermSpec, problem: Problem, moved: Params, soft_perms: SoftPerms, perms: Perms
) -> tuple[Float[Array, " nodes"], Float[Array, "nodes nodes"]]:
    """Inner products of the networks at the nodes of the way from `soft_perms` to permutations.

    Args:
        spec: the permutation spec.
        problem: the networks.
        moved: the free ones at `soft_perms`.
        soft_perms: where the way begins.
        perms: where it ends.

    Returns:
        With `X_s^i` network s at node i: `sum_s <X_s^i, fixed>` and `sum_{s != t} <X_s^i, X_t^j>`.
    """
    nodes = nodes_of(spec)
    end = jax.vmap(functools.partial(apply_perm, spec))(problem.free, perms)
    mixed = jax.vmap(functools.partial(apply_soft, spec), (0, 0))
    between = jax.lax.map(
        lambda step: mixed(problem.free, move(soft_perms, perms, step)), jnp.asarray(nodes[1:-1], jnp.float32)
    )
    linear, quadratic = jnp.zeros(len(nodes)), jnp.zeros((len(nodes), len(nodes)))
    for first, middle, last, fixed in zip(*map(jax.tree.leaves, (moved, between, end, problem.fixed))):
        values = jnp.concatenate([first[None], middle, last[None]])  # [nodes, models, ...]
        others = values.sum(1, keepdims=True) - values
        flat, flat_others = (value.reshape(len(nodes), -1) for value in (values, others))
        linear += values.sum(1).reshape(len(nodes), -1) @ fixed.ravel()
        quadratic += flat @ flat_others.T
    return linear, quadratic


def objective_along(
    nodes: np.ndarray, linear: np.ndarray, quadratic: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """The objective at some steps, from the products at the nodes; in float64."""
    degree = len(nodes) - 1
    values = np.polynomial.chebyshev.chebvander(2 * steps - 1, degree)
    basis = values @ np.linalg.inv(np.polynomial.chebyshev.chebvander(2 * nodes - 1, degree))
    return basis @ linear + np.einsum("ti,ij,tj->t", basis, quadratic, basis) / 2


def best_step(nodes: np.ndarray, linear: np.ndarray, quadratic: np.ndarray) -> float:
    """Where on [0, 1] the objective is largest: an end, or a root of the derivative of its polynomial.

    Example:
        >>> nodes = np.array([0.0, 1.0])  # one network, x = t, with -x^2 and x
        >>> round(best_step(nodes, np.array([0.0, 1.0]), np.array([[0.0, 0.0], [0.0, -2.0]])), 6)
        0.5
    """
    degree = 2 * (len(nodes) - 1)
    points = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
    fitted = np.polynomial.Chebyshev.fit(
        points, objective_along(nodes, linear, quadratic, points), degree, domain=[0, 1]
    )
    roots = fitted.deriv().roots()
    inside = roots.real[(np.abs(roots.imag) < 1e-6) & (roots.real > 0) & (roots.real < 1)]
    candidates = np.array([0.0, 1.0, *inside])
    return float(candidates[np.argmax(fitted(candidates))])


def climb(
    spec: PermSpec, problem: Problem, soft_perms: SoftPerms, max_iters: int
) -> tuple[SoftPerms, dict[str, np.ndarray], bool]:
    """Go towards the best permutations of the gradient, as far as it pays, until it pays no more.

    Args:
        spec: the permutation spec.
        problem: the networks.
        soft_perms: where to start.
        max_iters: number of steps after which to stop.

    Returns:
        The last point, the `objective` after each step and the `step_size`, and whether it has
        converged.
    """
    nodes = nodes_of(spec)
    objectives: list[float] = []
    steps: list[float] = []
    point = evaluate(spec, problem, soft_perms)
    converged = False
    while not converged and len(steps) < max_iters:
        perms = best_permutations(point.gradient)
        step, enough = 0.0, RELATIVE_GAP * abs(float(point.objective))
        if float(gap(point.gradient, soft_perms, perms)) > enough:
            products = products_along(spec, problem, point.moved, soft_perms, perms)
            step = best_step(nodes, *(np.asarray(part, np.float64) for part in products))
        converged = step == 0
        if not converged:
            soft_perms = move(soft_perms, perms, step)
            point = evaluate(spec, problem, soft_perms)
            objectives.append(float(point.objective))
            steps.append(step)
    return soft_perms, {"objective": np.asarray(objectives), "step_size": np.asarray(steps)}, converged
