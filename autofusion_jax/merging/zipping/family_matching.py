"""Merge and unmerge matrices of whole families of groups, from the similarities of their units."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.zipping.combine import split_by_model
from autofusion_jax.merging.zipping.greedy import VARIANTS, merge_matrices, permute_clusters, zip_clusters
from autofusion_jax.merging.zipping.group_families import (
    Family,
    block_index,
    blocks_of,
    match_outer_groups,
)
from autofusion_jax.merging.zipping.nested_groups import group_align, group_zip, match_blocks
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import identity_perms


class Matching(NamedTuple):
    """What units of N networks are merged into, by group; a pytree.

    Attributes:
        merge: group -> `M [*outer, n, N n]`; for an outer group one permutation per network.
        unmerge: group -> `U [*outer, N n, n]`.
        blocks: group with outer groups -> `[*stacks, N, G]`, the block of each network that
            stands at each place once the outer groups are permuted.
        value: mean similarity of what was merged, averaged over inner groups; 0 for matchings
            that do not say.
    """

    merge: dict[str, Array]
    unmerge: dict[str, Array]
    blocks: dict[str, Array]
    value: float


def join(parts: Iterable[Matching]) -> Matching:
    """The matchings of several families together."""
    together = Matching({}, {}, {}, 0.0)
    parts = list(parts)
    for part in parts:
        together.merge.update(part.merge)
        together.unmerge.update(part.unmerge)
        together.blocks.update(part.blocks)
    return together._replace(value=sum(part.value for part in parts) / max(len(parts), 1))


def match_family(
    spec: PermSpec,
    family: Family,
    similarities: Mapping[str, Float[Array, "*stacks rows rows"]],
    num_models: int,
    *,
    variant: str,
    a: float,
    b: float,
) -> Matching:
    """Decide which units of N networks become one unit, in all groups of a family.

    Outer groups are permuted into the order of the first network's, by one permutation for each
    network that all groups nested in them share; within the blocks that then go together the
    units are matched.

    Args:
        spec: the permutation spec.
        family: which groups.
        similarities: inner group -> `[*stacks, N G n, N G n]`.
        num_models: N.
        variant: a key of `VARIANTS`.
        a: as for `greedy_zip`.
        b: as for `greedy_zip`. Where the budget forbids all that is left to merge (three
            networks or more), the rest is merged without one, so that no unit is lost.

    Returns:
        The matrices of the family's groups.
    """
    perms = _outer_perms(spec, family, similarities, num_models, variant)
    merge, unmerge, blocks, values = {}, {}, {}, []
    for name in family.outer:
        hard = [np.eye(spec.groups[name].size, dtype=np.float32)[p[name]] for p in perms]
        merge[name] = jnp.asarray(np.concatenate(hard, -1))
        unmerge[name] = jnp.asarray(np.concatenate([np.swapaxes(m, -1, -2) for m in hard], -2))
    for name in (name for name in (*family.outer, *family.inner) if blocks_of(spec, name)[1]):
        blocks[name] = jnp.asarray(np.stack([block_index(spec, name, p) for p in perms], -2))
    for name in family.inner:
        matrices, value = _match_units(similarities[name], blocks.get(name), num_models, variant, a, b)
        merge[name], unmerge[name] = (_from_blocks(spec, name, matrix) for matrix in matrices)
        values.append(float(jnp.mean(value)))
    return Matching(merge, unmerge, blocks, sum(values) / len(values))


def _outer_perms(
    spec: PermSpec,
    family: Family,
    similarities: Mapping[str, Array],
    num_models: int,
    variant: str,
) -> list[dict[str, np.ndarray]]:
    """For each network, its permutations of the outer groups."""
    same = {name: np.asarray(perm) for name, perm in identity_perms(spec).items() if name in family.outer}
    if variant == "identity" or not family.outer:
        return [same] * num_models
    counts = {n: math.prod(spec.groups[o].size for o in blocks_of(spec, n)[1]) for n in family.inner}
    worth = {n: np.asarray(match_blocks(similarities[n], num_models, counts[n])) for n in family.inner}
    others = [
        match_outer_groups(spec, family, {name: values[..., k, :, :] for name, values in worth.items()})
        for k in range(num_models - 1)
    ]
    return [same, *others]


def _match_units(
    similarity: Array, places: Array | None, num_models: int, variant: str, a: float, b: float
) -> tuple[tuple[Array, Array], Array]:
    """The matrices of one group, `[*stacks, n, N n]` or with its blocks `[*stacks, G, n, N n]`."""
    if variant == "zip":
        options = {"a": a, "b": b, "lift_budget": True}
        if places is None:
            clusters = zip_clusters(similarity, num_models, **options)
        else:
            clusters = group_zip(similarity, num_models, places, **options)
    elif variant == "permute":
        if places is None:
            clusters = permute_clusters(similarity, num_models)
        else:
            clusters = group_align(similarity, num_models, places)
    else:
        blocks = similarity if places is None else _together(similarity, places)
        return VARIANTS[variant](blocks, num_models), jnp.zeros(())
    return merge_matrices(clusters.labels, num_models), clusters.value


def _together(similarity: Array, places: Array) -> Float[Array, "*stacks blocks rows rows"]:
    """The similarities of the units in those blocks that go together."""
    num_models, num_blocks = places.shape[-2:]
    n = similarity.shape[-1] // (num_models * num_blocks)
    number = jnp.arange(num_models)[:, None] * num_blocks + places  # [*stacks, N, G]
    rows = jnp.swapaxes(number, -1, -2)[..., None] * n + jnp.arange(n)
    rows = rows.reshape(*rows.shape[:-2], -1)  # [*stacks, G, N n]
    taken = jnp.take_along_axis(similarity[..., None, :, :], rows[..., :, None], -2)
    return jnp.take_along_axis(taken, rows[..., None, :], -1)


def _from_blocks(spec: PermSpec, group: str, matrices: Array) -> Float[Array, "*outer rows columns"]:
    """From `[*stacks, G, rows, columns]` to the order in which the group is nested."""
    stacks, outer = blocks_of(spec, group)
    sizes = [spec.groups[name].size for name in outer]
    matrices = matrices.reshape(*matrices.shape[: len(stacks)], *sizes, *matrices.shape[-2:])
    places = [spec.groups[group].nested_in.index(name) for name in stacks]
    return jnp.moveaxis(matrices, range(len(stacks)), places)


def _to_blocks(spec: PermSpec, group: str, matrices: Array) -> Float[Array, "*stacks blocks rows columns"]:
    """Undo `_from_blocks`."""
    stacks, _ = blocks_of(spec, group)
    places = [spec.groups[group].nested_in.index(name) for name in stacks]
    matrices = jnp.moveaxis(matrices, places, range(len(stacks)))
    return matrices.reshape(*matrices.shape[: len(stacks)], -1, *matrices.shape[-2:])


def ways_back(spec: PermSpec, matching: Matching, num_models: int) -> list[dict[str, Array]]:
    """The matrices that take merged activations back to each network's own units.

    For groups that are not nested these are the `U_k`. Those of a nested group come in the
    network's own order of the blocks, since outer groups are moved back before.

    Returns:
        For each network: group -> `[*outer, n, n]`, rows its own units, columns merged units.
    """
    _, unmerges = split_by_model(num_models, matching.merge, matching.unmerge)
    for k, unmerge in enumerate(unmerges):
        for name, places in matching.blocks.items():
            order = jnp.argsort(places[..., k, :], -1)[..., None, None]
            blocks = jnp.take_along_axis(_to_blocks(spec, name, unmerge[name]), order, -3)
            unmerge[name] = _from_blocks(spec, name, blocks)
    return unmerges
