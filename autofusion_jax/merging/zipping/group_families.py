"""Groups that are nested in one another, and which of their blocks belong together."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.transport.assignment import solve_assignment


@dataclasses.dataclass(frozen=True)
class Family:
    """Groups tied by nesting: they have to be matched together.

    Attributes:
        outer: the groups that others are nested in, outermost first (heads); often none.
        inner: the groups that hold no other (query-key units and value units of each head).
    """

    outer: tuple[str, ...]
    inner: tuple[str, ...]


def find_families(spec: PermSpec) -> tuple[Family, ...]:
    """Split the groups of a spec into families, in the order of the groups."""
    members: dict[str, list[str]] = {name: [name] for name in spec.groups}
    for group in spec.groups.values():
        for outer in group.nested_in:
            if outer in spec.groups and members[outer] is not members[group.name]:
                members[outer] += members[group.name]
                members.update(dict.fromkeys(members[group.name], members[outer]))
    holding = {outer for group in spec.groups.values() for outer in group.nested_in}
    families: dict[int, Family] = {}
    for names in members.values():
        names = sorted(names, key=lambda name: len(spec.groups[name].nested_in))
        outer = tuple(name for name in names if name in holding)
        families.setdefault(id(members[names[0]]), Family(outer, tuple(n for n in names if n not in holding)))
    return tuple(families.values())


def blocks_of(spec: PermSpec, group: str) -> tuple[list[str], list[str]]:
    """The stacks that a group is nested in, and the outer groups whose indices count its blocks."""
    nested_in = spec.groups[group].nested_in
    return [n for n in nested_in if n in spec.stacks], [n for n in nested_in if n in spec.groups]


def match_outer_groups(
    spec: PermSpec, family: Family, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Find one permutation of every outer group, common to all groups that are nested in it.

    Exact for groups nested in one outer group, or in groups that are nested in one another: it
    maximises the sum over all inner groups of what the best matching of each pair of blocks is
    worth. For a group nested in two that are not nested in each other that is a hard problem:
    the outer groups are matched in turn, the later ones as if free for every pair of the first.

    Args:
        spec: the permutation spec.
        family: a family of it.
        values: inner group -> worth of the best matching of each block of the first network
            (rows) with each of the second, `[*stacks, G, G]`.

    Returns:
        outer group -> `perm [*outer, n]`, in the index form of `apply_perm`.
    """
    perms: dict[str, np.ndarray] = {}
    for name in family.outer:
        inner = [group for group in family.inner if name in spec.groups[group].nested_in]
        worth = sum(_worth(spec, name, group, values[group], perms) for group in inner)
        perms[name] = np.asarray(solve_assignment(jnp.asarray(worth)))
    return perms


def _worth(
    spec: PermSpec, name: str, group: str, values: np.ndarray, perms: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What one group says about matching the indices of `name`, `[*outer, n, n]`."""
    stacks, outer = blocks_of(spec, group)
    sizes = [spec.groups[o].size for o in outer]
    values = np.reshape(values, (*values.shape[:-2], *sizes, *sizes))
    axes = [*stacks, *outer, *(f"{o}'" for o in outer)]  # with ': the second network's
    for o in outer:
        if o in perms:
            index = along_axes(spec, o, perms[o], axes)
            values = np.take_along_axis(values, index, axes.index(f"{o}'")).squeeze(axes.index(f"{o}'"))
            axes.remove(f"{o}'")
    for o in reversed(outer):
        if o not in perms and o != name:
            values = np.moveaxis(values, (axes.index(o), axes.index(f"{o}'")), (-2, -1))
            perm = np.asarray(solve_assignment(jnp.asarray(values)))
            values = np.take_along_axis(values, perm[..., None], -1).mean((-2, -1))
            axes = [axis for axis in axes if axis not in (o, f"{o}'")]
    kept = [*spec.groups[name].nested_in, name, f"{name}'"]
    values = values.mean(tuple(i for i, axis in enumerate(axes) if axis not in kept))
    axes = [axis for axis in axes if axis in kept]
    return values.transpose([axes.index(axis) for axis in kept])


def along_axes(spec: PermSpec, group: str, values: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """Numbers `[*outer, n]` of a group's units, with axes where they are named in `axes`, 1 elsewhere."""
    names = [*spec.groups[group].nested_in, group]
    order = sorted(range(len(names)), key=lambda i: axes.index(names[i]))
    sizes = dict(zip(names, values.shape))
    return values.transpose(order).reshape([sizes.get(axis, 1) for axis in axes])


def block_index(spec: PermSpec, group: str, perms: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which block of a network goes where, once its outer groups are permuted: `[*stacks, G]`."""
    stacks, outer = blocks_of(spec, group)
    sizes = [spec.groups[o].size for o in outer]
    shape = [*(spec.stacks[s] for s in stacks), *sizes]
    index = np.zeros(shape, int)
    for o, size in zip(outer, sizes):
        index = index * size + along_axes(spec, o, perms[o], [*stacks, *outer])
    return index.reshape(*shape[: len(stacks)], -1)
