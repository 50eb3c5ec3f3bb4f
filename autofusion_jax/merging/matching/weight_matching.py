"""Weight matching (Git Re-Basin): coordinate descent over groups, one assignment at a time."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Key

from autofusion_jax.arguments import Count, Share
from autofusion_jax.merging.fuse import fuse
from autofusion_jax.merging.matching.activation_matching import match_activations
from autofusion_jax.merging.matching.incremental import (
    Elements,
    Piece,
    Similarity,
    Term,
    inner_product,
    take_apart,
)
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import compose, identity_perms, random_perms
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.types import Params, Perms

RELATIVE_GAIN = 1e-6

MAX_PAIRED = 4096
"""Heads times units up to which heads are matched with their units: memory is the square of it."""


@factory
def weight_matching(
    *,
    gamma: Share = 0.5,
    max_sweeps: Count = 100,
    num_restarts: Count = 1,
    start: Literal["identity", "activation"] = "identity",
) -> Method:
    """Permute B's units to maximise `sum_l <W_A^l, P_l W_B^l P_{l-1}^T>`, then interpolate (Eq. 6-8).

    One group at a time, in random order, each by an exact assignment given the others, until
    a sweep improves none: a local optimum, which one depends on the order. The sum is over every
    leaf axis that carries the group, in either role: biases, norms and shortcuts included. Of complex
    leaves it is the real part, `Re <a, b>`.

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


class Descent:
    """Raises `<A, pi(B)>` by exact assignments, one group at a time, and never lowers it.

    A group that others are nested in (heads) is matched together with these: every unit of B's
    every head to those of every head of A, which gives the worth of each pair of heads, then
    the heads, as in the group alignment of MuDSC. A group is passed over where nothing that its
    similarity depends on has moved since its last assignment, which would come out the same.

    Attributes:
        perms: B's permutations so far.
        assignments: how many groups were assigned, those passed over not counted.
    """

    perms: dict[str, np.ndarray]
    assignments: int

    def __init__(
        self, spec: PermSpec, pieces: Sequence[Piece], start: Mapping[str, Array | np.ndarray]
    ) -> None:
        """Prepare the descent; nothing is computed yet.

        Args:
            spec: the permutation spec.
            pieces: the two networks, from `take_apart`.
            start: B's permutations at the start.
        """
        self.perms = {name: np.asarray(start[name]) for name in spec.groups}
        self.assignments = 0
        self._spec = spec
        self._carriers = {name: [p for p in pieces if p.count(name)] for name in spec.groups}
        self._inner = {name: _matched_inside(spec, name, self._carriers[name]) for name in spec.groups}
        self._holds = {outer for group in spec.groups.values() for outer in group.nested_in}
        self._own: dict[str, Similarity] = {}
        self._pairs: dict[str, Similarity] = {}
        for name, pieces in self._carriers.items():
            inner = self._inner[name]
            alone = [piece for piece in pieces if not any(map(piece.count, inner))]
            self._own[name] = Similarity(_terms(alone, name))
            self._pairs |= {group: Similarity(_terms(pieces, name, group)) for group in inner}

    def sweep(self, order: Sequence[str]) -> bool:
        """Visit groups in this order; tell whether any gained."""
        gains = [self.visit(name) for name in order]
        return any(gains)

    def visit(self, name: str) -> bool:
        """Assign one group, with those matched inside of it; tell whether there was a gain."""
        elements = self._seen_from(name)
        inner = self._inner[name]
        stale = [each.refresh(elements) for each in (self._own[name], *(self._pairs[g] for g in inner))]
        if not any(stale):  # the same similarities give the same assignment: a third of all are saved
            return False
        self.assignments += 1
        value = self._own[name].value
        blocks = {group: _blocks(self._pairs[group].value, self._spec.groups[group].size) for group in inner}
        # The worth of a pair of heads is that of their best matched units, so units come before heads.
        steps = {group: np.asarray(solve_assignment(each)) for group, each in blocks.items()}
        worth = value + sum(_gather(blocks[group], step) for group, step in steps.items())
        best = np.asarray(solve_assignment(worth))
        before = _total(value, self.perms[name]) + sum(
            _total(_pick(blocks[group], self.perms[name]), self.perms[group]) for group in inner
        )
        # Rounding must not count as a gain, or sweeps would go on among equals until `max_sweeps`.
        if _total(worth, best) <= before + RELATIVE_GAIN * abs(before):
            return False
        return self._accept(name, self._moved(name, elements, best, steps))

    def _seen_from(self, name: str) -> Elements:
        """The elements for B with this group in its own order: what is nested in it is relabelled."""
        if name not in self._holds or self._inner[name]:
            return self.perms
        return _relabelled(self._spec, name, np.argsort(self.perms[name], axis=-1), self.perms)

    def _moved(
        self, name: str, elements: Elements, best: np.ndarray, steps: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        if name in self._holds and not steps:
            return _relabelled(self._spec, name, best, elements)
        return {**elements, name: best, **{group: _pick(step, best) for group, step in steps.items()}}

    def _accept(self, name: str, perms: dict[str, np.ndarray]) -> bool:
        """Take over new permutations; where a leaf carries the group twice, only if they gain there too."""
        pieces = self._carriers[name]
        if any(piece.count(name) > 1 for piece in pieces):
            before = inner_product(pieces, self.perms)
            if inner_product(pieces, perms) <= before + RELATIVE_GAIN * abs(before):
                return False
        self.perms = perms
        return True


def _matched_inside(spec: PermSpec, name: str, carriers: Sequence[Piece]) -> list[str]:
    """The groups that are matched together with one: all that are nested in it, if that can be done.

    That is where nothing is nested in them or in two groups at a time, no piece ties two of them to
    each other, and they are not too large. Elsewhere they go where the group goes, as they are.
    """
    inside = [group for group in spec.groups.values() if name in group.nested_in]
    nesting = (*spec.groups[name].nested_in, name)
    names = [group.name for group in inside]
    simple = all(group.nested_in == nesting for group in inside)
    stacked = all(outer in spec.stacks for outer in spec.groups[name].nested_in)
    apart = all(piece.count(name) == 1 and sum(map(piece.count, names)) <= 1 for piece in carriers)
    small = all(spec.groups[name].size * group.size <= MAX_PAIRED for group in inside)
    return names if simple and stacked and apart and small else []


def _terms(pieces: Sequence[Piece], *groups: str) -> list[Term]:
    """The terms of a group, or of pairs of indices of two; one for each time that a piece carries it."""
    terms: list[Term] = []
    for piece in pieces:
        found = [[k for k, place in enumerate(piece.places) if place.group == group] for group in groups]
        terms += [Term(piece, own) for own in zip(*found)]
    return terms


def _blocks(pairs: np.ndarray, n: int) -> np.ndarray:
    """`[*outer, h n, h n]` to `[*outer, h, h, n, n]`."""
    h = pairs.shape[-1] // n
    return np.swapaxes(pairs.reshape(*pairs.shape[:-2], h, n, h, n), -3, -2)


def _pick(values: np.ndarray, perm: np.ndarray) -> np.ndarray:
    """`values[*outer, h, perm[*outer, h], ...]`."""
    index = perm.reshape(*perm.shape, *(1,) * (values.ndim - perm.ndim))
    return np.take_along_axis(values, index, perm.ndim).squeeze(perm.ndim)


def _gather(similarity: np.ndarray, perm: np.ndarray) -> np.ndarray:
    """`sum_i similarity[..., i, perm[i]]`."""
    return np.asarray(np.take_along_axis(similarity, perm[..., None], -1).sum((-2, -1)))


def _total(similarity: np.ndarray, perm: np.ndarray) -> float:
    return float(_gather(np.broadcast_to(similarity, (*perm.shape, perm.shape[-1])), perm).sum())


def _relabelled(spec: PermSpec, name: str, perm: np.ndarray, elements: Elements) -> dict[str, np.ndarray]:
    """The elements after a further permutation of one group, which takes along what is nested in it."""
    further = {**identity_perms(spec), name: jnp.asarray(perm)}
    both = compose(spec, further, {group: jnp.asarray(element) for group, element in elements.items()})
    return {group: np.asarray(element) for group, element in both.items()}
