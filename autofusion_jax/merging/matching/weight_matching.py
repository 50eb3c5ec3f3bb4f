"""Weight matching (Git Re-Basin): coordinate descent over groups, one assignment at a time."""

import functools

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.fuse import fuse
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.similarity import weight_similarity
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm, compose, identity_perms
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.types import Params, Perms
from autofusion_jax.validation import require

RELATIVE_GAIN = 1e-6


def weight_matching(*, gamma: float = 0.5, max_sweeps: int = 100) -> Method:
    """Permute B's units to maximise `sum_l <W_A^l, P_l W_B^l P_{l-1}^T>`, then interpolate (Eq. 6-8).

    One group at a time, in random order, each by an exact assignment given the others, until
    a sweep improves none: a local optimum, which one depends on the order.

    Args:
        gamma: weight of model A, in [0, 1].
        max_sweeps: sweeps over all groups after which to stop, >= 1.

    Raises:
        ValueError: gamma or max_sweeps out of range.

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, ICLR 2023, Algorithm 1.
    """
    require(0 <= gamma <= 1, "weight_matching", "gamma", "in [0, 1], the weight of model A", gamma)
    require(max_sweeps >= 1, "weight_matching", "max_sweeps", ">= 1", max_sweeps)

    def run(task: MergeTask) -> list[MergeResult]:
        params_a, params_b = task.models
        results = []
        for key in task.keys:
            draws = jax.random.split(key, max_sweeps)
            order = jax.vmap(lambda k: jax.random.permutation(k, len(task.spec.groups)))(draws)
            perms, sweeps, converged = match_weights(task.spec, params_a, params_b, np.asarray(order))
            params = fuse(params_a, params_b, perms, gamma, task.spec)
            diagnostics = {"sweeps": sweeps, "converged": converged}
            alignments = (identity_perms(task.spec), perms)
            results.append(
                MergeResult(
                    params, task.apply_fn, perms, alignments, (gamma, 1 - gamma), diagnostics=diagnostics
                )
            )
        return results

    return Method("weight_matching", run)


def match_weights(
    spec: PermSpec, params_a: Params, params_b: Params, visit_order: np.ndarray
) -> tuple[dict[str, Array], int, bool]:
    """Find permutations of B's units by coordinate descent.

    Args:
        spec: the permutation spec.
        params_a: parameters of A.
        params_b: parameters of B.
        visit_order: `[sweeps, groups]`, the order of the groups in each sweep; stops early
            after a sweep without gain.

    Returns:
        The permutations, the number of sweeps made, and whether the last one gained nothing.
    """
    names = list(spec.groups)
    perms = identity_perms(spec)
    for sweep, order in enumerate(visit_order):
        gained = False
        for name in (names[i] for i in order):
            similarity = unit_similarity(spec, params_a, params_b, perms, name)
            step = solve_assignment(similarity)
            before, after = _objective(similarity, None), _objective(similarity, step)
            if after > before + RELATIVE_GAIN * max(abs(before), 1e-30):
                perms = compose(spec, {**identity_perms(spec), name: step}, perms)
                gained = True
        if not gained:
            return perms, sweep + 1, True
    return perms, len(visit_order), False


def _objective(similarity: Array, perm: Array | None) -> float:
    rows = np.asarray(similarity, np.float64)
    index = np.arange(rows.shape[-1]) if perm is None else np.asarray(perm)
    return float(np.take_along_axis(rows, np.broadcast_to(index, rows.shape[:-1])[..., None], -1).sum())


@functools.partial(jax.jit, static_argnames=("spec", "group"))
def unit_similarity(
    spec: PermSpec, params_a: Params, params_b: Params, perms: Perms, group: str
) -> Float[Array, "*outer n n"]:
    """`weight_similarity` of A's units with B's after the permutations so far."""
    return weight_similarity(spec, params_a, apply_perm(spec, params_b, perms), group)
