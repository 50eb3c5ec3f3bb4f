"""Weight matching (Git Re-Basin): coordinate descent over groups, one assignment at a time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Key

from autofusion_jax.merging.fuse import fuse
from autofusion_jax.merging.matching.activation_matching import match_activations
from autofusion_jax.merging.matching.descent import Descent
from autofusion_jax.merging.matching.incremental import Piece, inner_product, take_apart
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import identity_perms, random_perms
from autofusion_jax.types import Params, Perms
from autofusion_jax.validation import require, unknown_name

STARTS = ("identity", "activation")


def weight_matching(
    *, gamma: float = 0.5, max_sweeps: int = 100, num_restarts: int = 1, start: str = "identity"
) -> Method:
    """Permute B's units to maximise `sum_l <W_A^l, P_l W_B^l P_{l-1}^T>`, then interpolate (Eq. 6-8).

    One group at a time, in random order, each by an exact assignment given the others, until
    a sweep improves none: a local optimum, which one depends on the order. The sum is over every
    leaf axis that carries the group, in either role: biases, norms and shortcuts included.

    In deep residual networks with few inputs a single run finds either the whole planted
    permutation or nothing of it (stream of 64 units, 3 inputs: exact in 2 of 5 runs with 6
    blocks, in 1 of 5 with 12), and several runs, or a start from activations, find it.

    Args:
        gamma: weight of model A, in [0, 1].
        max_sweeps: sweeps over all groups after which to stop, >= 1.
        num_restarts: how many runs to make, >= 1; the one with the largest sum is kept. Each has
            visit orders of its own. The first begins at `start`, then every second one does,
            the others at random permutations.
        start: `"identity"`, or `"activation"`: the permutations of `activation_matching`, which
            need inputs.

    Returns:
        A method for two networks. `diagnostics`: the `objective` (the sum above), the `sweeps` and
        `assignments` of the run that was kept, whether it `converged`, and the `objectives` of
        all runs.

    Raises:
        ValueError: an option is out of its range, or unknown.

    References:
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, ICLR 2023, Algorithm 1.

    Example:
        >>> weight_matching(num_restarts=5).name
        'weight_matching'
    """
    require(0 <= gamma <= 1, "weight_matching", "gamma", "in [0, 1], the weight of model A", gamma)
    require(max_sweeps >= 1, "weight_matching", "max_sweeps", ">= 1", max_sweeps)
    require(num_restarts >= 1, "weight_matching", "num_restarts", ">= 1", num_restarts)
    if start not in STARTS:
        raise unknown_name("weight_matching", "start", start, STARTS)

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec, (params_a, params_b) = task.require_perm_spec(), task.models
        begin = identity_perms(spec)
        if start == "activation":
            begin = match_activations(spec, params_a, params_b, task.require_x())
        pieces = take_apart(spec, params_a, params_b)
        return _result(task, _restarts(spec, pieces, begin, key, max_sweeps, num_restarts), gamma)

    return Method("weight_matching", run)


def _restarts(
    spec: PermSpec,
    pieces: Sequence[Piece],
    start: Perms,
    key: Key[Array, ""],
    max_sweeps: int,
    num_restarts: int,
) -> list["Match"]:
    matches = []
    for number in range(num_restarts):
        own = jax.random.fold_in(key, number) if number else key
        draws = jax.random.split(own, max_sweeps)
        order = np.asarray(jax.vmap(lambda k: jax.random.permutation(k, len(spec.groups)))(draws))
        begin: Mapping[str, Array | np.ndarray] = start
        if number and number % 2 == 0:
            begin = random_perms(spec, jax.random.fold_in(own, 0))
        matches.append(descend(spec, pieces, order, begin))
    return matches


def _result(task: MergeTask, matches: Sequence["Match"], gamma: float) -> MergeResult:
    spec = task.require_perm_spec()
    params_a, params_b = task.models
    best = max(matches, key=lambda match: match.objective)
    diagnostics = {name: value for name, value in best._asdict().items() if name != "perms"}
    return MergeResult(
        fuse(params_a, params_b, best.perms, gamma, spec),
        task.apply_fn,
        best.perms,
        (identity_perms(spec), best.perms),
        (gamma, 1 - gamma),
        diagnostics={**diagnostics, "objectives": [match.objective for match in matches]},
    )


class Match(NamedTuple):
    """What one run of weight matching finds.

    Attributes:
        perms: B's permutations.
        objective: `<A, pi(B)>` over all leaves that carry groups.
        sweeps: sweeps made, the last without a gain if it converged.
        converged: whether the last sweep gained nothing.
        assignments: how many groups were assigned, those passed over not counted.
    """

    perms: dict[str, Array]
    objective: float
    sweeps: int
    converged: bool
    assignments: int


def match_weights(
    spec: PermSpec,
    params_a: Params,
    params_b: Params,
    visit_order: Int[np.ndarray, "sweeps groups"],
    *,
    start: Perms | None = None,
) -> Match:
    """Find permutations of B's units by coordinate descent.

    Args:
        spec: the permutation spec.
        params_a: parameters of A.
        params_b: parameters of B.
        visit_order: the order of the groups in each sweep; stops early after a sweep without
            gain.
        start: permutations to start from; the identity if left out.

    Returns:
        The permutations and how they came about.
    """
    return descend(spec, take_apart(spec, params_a, params_b), visit_order, start or identity_perms(spec))


def descend(
    spec: PermSpec,
    pieces: Sequence[Piece],
    visit_order: Int[np.ndarray, "sweeps groups"],
    start: Mapping[str, Array | np.ndarray],
) -> Match:
    """`match_weights` of two networks that were taken apart before."""
    descent, names = Descent(spec, pieces, start), list(spec.groups)
    sweeps, gained = 0, True
    while gained and sweeps < len(visit_order):
        gained = descent.sweep([names[number] for number in visit_order[sweeps]])
        sweeps += 1
    perms = {name: jnp.asarray(perm) for name, perm in descent.perms.items()}
    return Match(perms, inner_product(pieces, descent.perms), sweeps, not gained, descent.assignments)
