"""OT fusion: align networks to the first one layer by layer, by optimal transport of their units."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Num

from autofusion_jax.arguments import Positive, Share
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.unit_features import (
    BATCH_SIZE,
    common_unit,
    divided,
    in_wide,
    real_parts,
    unit_vectors,
)
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.moments import stream_moments
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import identity_perms, permute, soften
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params, Perms, SoftPerms
from autofusion_jax.validation import require

Distances: TypeAlias = Callable[[str, int], Array | float]
"""`distances(group, paired)`: all units of A with all of B, `[*outer, k, k]`.

The last `paired` outer axes are not matched yet: their indices count as units of their own,
`k = sizes of those axes * n`. 0 where a group is told apart by the groups inside of it alone."""
SINKHORN_ITERATIONS = 200


@factory
def ot_fusion(
    *,
    ground: Literal["weights", "activations"] = "weights",
    reg: Positive | None = None,
    gamma: Share | None = None,
    position: Position = "pre",
) -> Method:
    r"""Transport the units of every network to those of the first, then average the weights.

    Group by group, from the input on: `T` minimises `sum_ij T_ij c(i, j)` over couplings of the
    units of A with those of B, both of uniform mass, and B becomes
    `diag(1/m) T W T'^T diag(1/m')`: rows of the map sum to one. The cost is the squared distance
    of the weights that come in, those before being aligned already, or of activations. Exactly
    solved, the coupling is a permutation; with entropy, a soft one.

    For nested groups (heads, and units in each) the cost of matching two outer units is that of
    the best matching of their inner ones.

    Args:
        ground: `"weights"` or `"activations"`: what the distance of two units is taken between.
        reg: weight of the entropy, > 0, in units of the mean cost of the group; None: exact.
        gamma: weight of the first network, in [0, 1], the others sharing the rest; the same for
            all if None.
        position: for activations: `"pre"`, before the nonlinearity, or `"read"`, by the next weight;
            the other where a group has no such place.

    Returns:
        The method. `soft_perms`, for two networks with `reg`, are the maps; `perms` without.

    Raises:
        ValueError: an option is unknown or out of range.

    References:
        Singh, Jaggi: Model fusion via optimal transport, NeurIPS 2020, Algorithm 1.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec, count = task.require_perm_spec(), len(task.models)
        first = 1 / count if gamma is None else gamma
        weights = (first, *((1 - first) / (count - 1),) * (count - 1))
        alignments = [_start(spec, reg)]
        for params in task.models[1:]:
            models = (task.models[0], params)
            if ground == "weights":
                alignments.append(_align_by_weights(spec, models, reg))
            else:
                alignments.append(_align_by_activations(spec, models, task.require_x(), position, reg))
        others = [
            permute(spec, in_wide(params), maps) for params, maps in zip(task.models[1:], alignments[1:])
        ]
        params, maps = average([task.models[0], *others], weights), alignments[1] if count == 2 else {}
        perms, soft_perms = (maps, {}) if reg is None else ({}, maps)
        return MergeResult(params, task.apply_fn, perms, tuple(alignments), weights, soft_perms=soft_perms)

    return Method("ot_fusion", run, uses_key=False, max_models=None)


def _align_by_weights(spec: PermSpec, models: Sequence[Params], reg: float | None) -> dict[str, Array]:
    """One group after the other, in the order of the forward pass, outer groups before inner ones."""
    maps = _start(spec, reg)
    known: list[str] = []
    for name in spec.groups:
        for group in (*(outer for outer in spec.groups[name].nested_in if outer in spec.groups), name):
            if group not in known:
                distances = weight_distances(spec, models, maps, known)
                maps[group] = _transport(unit_costs(spec, group, distances), reg)
                known.append(group)
    return maps


def _align_by_activations(
    spec: PermSpec, models: Sequence[Params], x: Array, position: Position, reg: float | None
) -> dict[str, Array]:
    """All groups that are nested in as many others at once, those that are nested in none first."""
    maps = _start(spec, reg)
    depths = {name: len(group.nested_in) for name, group in spec.groups.items()}
    for depth in sorted(set(depths.values())):
        aligned = (models[0], permute(spec, models[1], maps))
        names = [name for name in spec.groups if depths[name] == depth]
        distances = activation_distances(spec, aligned, x, names, position)
        maps.update({name: _transport(unit_costs(spec, name, distances), reg) for name in names})
    return maps


def _start(spec: PermSpec, reg: float | None) -> dict[str, Array]:
    identity = identity_perms(spec)
    return identity if reg is None else soften(spec, identity)


def _transport(cost: Array, reg: float | None) -> Array:
    """The map that is cheapest: a permutation, or with entropy a matrix whose rows sum to one."""
    if reg is None:
        return solve_assignment(-cost)
    scale = jnp.maximum(cost.mean((-2, -1), keepdims=True), jnp.finfo(cost.dtype).tiny)
    soft = jnp.exp(log_sinkhorn(-cost / scale, tau=reg, num_iters=SINKHORN_ITERATIONS))
    return soft / soft.sum(-1, keepdims=True)


def unit_costs(
    spec: PermSpec, group: str, distances: Distances, paired: int = 0
) -> Float[Array, "*outer k k"]:
    """What it costs to match each unit of A with each of B.

    Two units that have units of their own (heads) are as far apart as the best matching of
    those makes them, beside what is theirs alone.

    Args:
        spec: the permutation spec.
        group: name of the group.
        distances: the squared distances.
        paired: as for `distances`.

    Returns:
        The costs, rows A's units.
    """
    total = distances(group, paired)
    for child in children(spec, group):
        inside = unit_costs(spec, child, distances, paired + 1)
        n = spec.groups[child].size
        k = inside.shape[-1] // n
        blocks = jnp.swapaxes(inside.reshape(*inside.shape[:-2], k, n, k, n), -3, -2)  # [*outer, k, k, n, n]
        best = solve_assignment(-blocks)[..., None]
        total += jnp.take_along_axis(blocks, best, axis=-1).sum((-2, -1))
    return jnp.asarray(total)


def children(spec: PermSpec, group: str) -> list[str]:
    """The groups that are nested in a group, with nothing in between."""
    inside = (*spec.groups[group].nested_in, group)
    return [name for name, other in spec.groups.items() if other.nested_in == inside]


def weight_distances(
    spec: PermSpec, models: Sequence[Params], maps: Perms | SoftPerms, known: Sequence[str]
) -> Distances:
    """Distances of the weights that come into units, from groups that are aligned already.

    Args:
        spec: the permutation spec.
        models: parameters of A and of B.
        maps: B's maps so far, for all groups.
        known: the groups whose maps are final.
    """
    spec, models = real_parts(spec, models)
    unit = common_unit(models)  # all costs are in units of its square, which no map depends on
    leaves = [flatten_by_path(divided(params, unit)) for params in models]
    floats = {path for path, leaf in leaves[0].items() if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)}

    def distances(group: str, paired: int) -> Array | float:
        chosen = _incoming(spec, group, {*known, *spec.groups[group].nested_in}, floats)
        if not chosen:
            return 0.0
        part = dataclasses.replace(spec, leaves=chosen, sites=())
        a, b = ({leaf.path: jnp.asarray(params[leaf.path]) for leaf in chosen} for params in leaves)
        return _compare_weights(part, group, paired, a, b, dict(maps))

    return distances


def _incoming(spec: PermSpec, group: str, known: set[str], floats: set[str]) -> tuple[LeafSpec, ...]:
    """The leaves that tell a group's units apart: those that produce it from known groups.

    A group that is produced from unknown ones only, or by no leaf, is told apart by these, or
    by all that carry it, unless it has children, which then do.
    """
    inside = children(spec, group)
    own = [leaf for leaf in spec.leaves if leaf.path in floats and group in _groups(leaf)]
    own = [leaf for leaf in own if not _groups(leaf).intersection(inside)]
    produced = [leaf for leaf in own if group in _groups(leaf, "out") and group not in _groups(leaf, "in")]
    settled = [leaf for leaf in produced if _groups(leaf) <= {*known, group}]
    return tuple(settled or ([] if inside else produced or own))


def _groups(leaf: LeafSpec, role: str | None = None) -> set[str]:
    return {name for axis in leaf.axes if role in (None, axis.role) for name in axis.groups}


@jit_by_network(static_argnames=("group", "paired"))
def _compare_weights(
    spec: PermSpec, group: str, paired: int, a: Params, b: Params, maps: Perms | SoftPerms
) -> Float[Array, "*outer k k"]:
    total = jnp.zeros(())
    units = (unit_vectors(spec, params, group) for params in (a, permute(spec, b, maps)))
    for first, second in zip(*units):
        first, second = (_joined(view, paired, 1) for view in (first, second))
        cross = jnp.einsum("...ik,...jk->...ij", first, second, precision=jax.lax.Precision.HIGHEST)
        total += (first**2).sum(-1)[..., :, None] + (second**2).sum(-1)[..., None, :] - 2 * cross
    return total


def _joined(view: Array, paired: int, rest: int) -> Array:
    """Make one axis of a group's units and the `paired` axes before them; `rest` axes stand behind."""
    last = view.ndim - rest
    first = last - paired - 1
    return view.reshape(*view.shape[:first], math.prod(view.shape[first:last]), *view.shape[last:])


def activation_distances(
    spec: PermSpec,
    models: Sequence[Params],
    x: Num[Array, "N ..."],
    names: Sequence[str],
    position: Position,
) -> Distances:
    """Distances `E |a_i - b_j|^2` of activations, in units of the largest one's square.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of A and of B, aligned in the groups that `names` are nested in.
        x: inputs.
        names: the groups that distances are wanted for; those inside of them come with them.
        position: where they are measured, at the last such site of each group.

    Raises:
        ValueError: a group has no such site.
    """
    wanted = {}
    waiting = [(name, 0) for name in names]
    while waiting:
        name, paired = waiting.pop()
        inside = children(spec, name)
        waiting += [(child, paired + 1) for child in inside]
        if not inside:
            wanted[name, paired] = _site(spec, name, position)
    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    capture = _Activations(spec, tuple(wanted.items()))
    measured = stream_moments(Partial(capture, list(models)), batches, scaled=True)
    unit = max((float(moments.unit) for moments in measured.values()), default=1.0)

    def distances(group: str, paired: int) -> Array | float:
        if (group, paired) not in wanted:
            return 0.0
        moments = measured[f"{group} {paired}"]
        apart, n = moments.distances(), moments.mean.shape[-1]
        return apart[..., :n, n:] * (moments.unit / unit) ** 2

    return distances


@dataclasses.dataclass(frozen=True)
class _Activations:
    """The values at one site of each `(group, paired)` of `Distances`, as `stream_moments` takes them."""

    spec: PermSpec
    sites: tuple[tuple[tuple[str, int], Site], ...]

    def __call__(self, models: Sequence[Params], batch: Any) -> dict[str, tuple[Array, int]]:
        sites = tuple(dict.fromkeys(site for _, site in self.sites))
        values = [capture_sites(self.spec, params, batch, sites=sites) for params in models]
        stacked = {name: jnp.stack([captured[name] for captured in values]) for name in values[0]}
        return {
            f"{name} {paired}": (
                _joined(stacked[site.name], paired, 0), len(self.spec.groups[name].nested_in) - paired,
            )
            for (name, paired), site in self.sites
        }  # fmt: skip


def _site(spec: PermSpec, group: str, position: Position) -> Site:
    """The last site of a group at a position; at the other where it has none (queries are read by none)."""
    sites = [site for site in spec.sites if site.group == group]
    require(
        bool(sites), "ot_fusion", "perm_spec", "a spec with sites for all groups", f"none for {group}",
        'Use infer_perm_spec, or ground="weights".',
    )  # fmt: skip
    return next((site for site in reversed(sites) if site.position == position), sites[-1])
