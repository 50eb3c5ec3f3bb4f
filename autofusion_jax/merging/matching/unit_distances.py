"""Squared distances between the units of two networks, for transport: nested groups included."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Num

from autofusion_jax.merging.similarity import BATCH_SIZE, unit_vectors
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.moments import stream_moments
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import permute
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params, Perms, SoftPerms
from autofusion_jax.validation import require

Distances: TypeAlias = Callable[[str, int], Array | float]
"""`distances(group, paired)`: all units of A with all of B, `[*outer, k, k]`.

The last `paired` outer axes are not matched yet: their indices count as units of their own,
`k = sizes of those axes * n`. 0 where a group is told apart by the groups inside of it alone."""


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
    leaves = [flatten_by_path(params) for params in models]
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


@functools.partial(jax.jit, static_argnames=("spec", "group", "paired"))
def _compare_weights(
    spec: PermSpec, group: str, paired: int, a: Params, b: Params, maps: Perms | SoftPerms
) -> Float[Array, "*outer k k"]:
    total = jnp.zeros(())
    units = (unit_vectors(spec, params, group) for params in (a, permute(spec, b, maps)))
    for first, second in zip(*units):
        first, second = (_joined(view.astype(jnp.float32), paired, 1) for view in (first, second))
        cross = jnp.einsum("...ik,...jk->...ij", first, second)
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
    """Distances `E (a_i - b_j)^2` of activations.

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

    def capture(models: Sequence[Params], batch: Any) -> dict[str, tuple[Array, int]]:
        sites = tuple(dict.fromkeys(wanted.values()))
        values = [capture_sites(spec, params, batch, sites=sites) for params in models]
        stacked = {name: jnp.stack([captured[name] for captured in values]) for name in values[0]}
        return {
            f"{name} {paired}": (
                _joined(stacked[site.name], paired, 0), len(spec.groups[name].nested_in) - paired,
            )
            for (name, paired), site in wanted.items()
        }  # fmt: skip

    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    measured = stream_moments(Partial(capture, list(models)), batches)

    def distances(group: str, paired: int) -> Array | float:
        if (group, paired) not in wanted:
            return 0.0
        second = measured[f"{group} {paired}"].second_moment()
        norms, n = jnp.diagonal(second, axis1=-2, axis2=-1), second.shape[-1] // 2
        return norms[..., :n, None] + norms[..., None, n:] - 2 * second[..., :n, n:]

    return distances


def _site(spec: PermSpec, group: str, position: Position) -> Site:
    """The last site of a group at a position; at the other where it has none (queries are read by none)."""
    sites = [site for site in spec.sites if site.group == group]
    require(
        bool(sites), "ot_fusion", "perm_spec", "a spec with sites for all groups", f"none for {group}",
        'Use infer_perm_spec, or ground="weights".',
    )  # fmt: skip
    return next((site for site in reversed(sites) if site.position == position), sites[-1])
