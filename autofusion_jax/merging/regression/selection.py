"""Selection of the units of N networks that one of the same size keeps: those that vary most."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Shaped

from autofusion_jax.merging.unit_features import real_parts, unit_vectors
from autofusion_jax.merging.zipping.group_families import along_axes, blocks_of
from autofusion_jax.merging.zipping.similarities import block_moments, innermost_groups
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params

Kept = dict[str, Bool[np.ndarray, "..."]]
"""Group -> whether merged unit `i` is unit `j` of network `k`: `[models, *outer, n, n]`."""


def select_units(spec: PermSpec, models: Sequence[Params], x: Shaped[Array, "N ..."]) -> Kept:
    """Keep of every group the `n / N` units of each network that vary most on the inputs.

    A unit's spread is its standard deviation where the next weight reads it, at the last such
    site, over inputs and places. The first `n mod N` networks keep one unit more; networks past
    the n-th keep none of a group of `n < N` units. The order is that of the networks, and within
    one that of its own units.

    Units of an outer group (heads, groups of a GroupNorm) are kept whole, with all units that are
    nested in them: their variance is the sum over those that a weight reads (the values of a
    head, not its queries and keys). A group that no weight reads is judged where a weight makes
    it, one without any site by the norm of each unit's weights.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of N networks.
        x: inputs.

    Returns:
        What is kept of every group.

    Raises:
        ValueError: the spec has no sites or no `apply_fn`.
    """
    variances = unit_variances(spec, models, x)
    kept: Kept = {}
    for name in sorted(spec.groups, key=lambda name: len(spec.groups[name].nested_in)):
        outer = blocks_of(spec, name)[1]
        kept[name] = _as_its_outer(spec, name, kept) if outer else _largest(_totals(spec, name, variances))
    return {name: kept[name] for name in spec.groups}


def unit_variances(
    spec: PermSpec, models: Sequence[Params], x: Shaped[Array, "N ..."]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The variance of every unit of every innermost group, `[models, *outer, n]`. See `select_units`."""
    measured = block_moments(spec, models, x, position="read")
    found = {}
    for name in innermost_groups(spec):
        stacks, outer = blocks_of(spec, name)
        if name in measured:
            moments = measured[name]
            std = np.asarray(moments.std(), np.float64) * float(moments.unit)  # [models, *stacks, G n]
            sizes = [spec.groups[o].size for o in outer]
            values = std.reshape(*std.shape[:-1], *sizes, -1) ** 2
            order = [[*stacks, *outer].index(o) + 1 for o in spec.groups[name].nested_in]
            found[name] = values.transpose(0, *order, values.ndim - 1)
        else:
            real_spec, networks = real_parts(spec, models)
            found[name] = np.stack([_squared_norms(real_spec, params, name) for params in networks])
    return found


def _squared_norms(spec: PermSpec, params: Params, group: str) -> np.ndarray:
    parts = [np.asarray(part, np.float64) for part in unit_vectors(spec, params, group)]
    return np.sum([np.sum(np.square(part), axis=-1) for part in parts], axis=0)


def _totals(
    spec: PermSpec, group: str, variances: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "models *stacks n"]:
    """The variance of each unit of a group, or of all that is nested in it."""
    if group in variances:
        return variances[group]
    axes = ["models", *spec.groups[group].nested_in, group]
    inner = [name for name in variances if group in spec.groups[name].nested_in]
    read = {site.group for site in spec.sites if site.position == "read"}
    total: float | np.ndarray = 0.0
    for name in [name for name in inner if name in read] or inner:
        nested_in = spec.groups[name].nested_in
        others = tuple(i + 1 for i, outer in enumerate(nested_in) if outer not in axes)
        kept = ["models", *(outer for outer in nested_in if outer in axes)]
        total = total + variances[name].sum((*others, -1)).transpose([kept.index(axis) for axis in axes])
    return np.asarray(total)


def _largest(values: Float[np.ndarray, "models *stacks n"]) -> Bool[np.ndarray, "models *stacks n n"]:
    count, size = len(values), values.shape[-1]
    kept = np.zeros((*values.shape, size), bool)
    start = 0
    for k, own in enumerate(values):
        share = size // count + (k < size % count)
        units = np.sort(np.argsort(-own, axis=-1, kind="stable")[..., :share], axis=-1)
        kept[k, ..., start : start + share, :] = units[..., None] == np.arange(size)
        start += share
    return kept


def _as_its_outer(spec: PermSpec, group: str, kept: Kept) -> Bool[np.ndarray, "models *outer n n"]:
    """All units, in their order, wherever a network's outer unit is kept."""
    size, sizes = spec.groups[group].size, spec.outer_sizes(group)
    axes = [*spec.groups[group].nested_in, group]
    all_units = np.eye(size, dtype=bool)
    found = []
    for k in range(len(next(iter(kept.values())))):
        owned = np.ones((*sizes, 1), bool)
        for outer in blocks_of(spec, group)[1]:
            owned = owned & along_axes(spec, outer, kept[outer][k].any(-1), axes)
        found.append(owned[..., None] & all_units)
    return np.stack(found)


def as_matrices(kept: Kept) -> tuple[dict[str, Array], dict[str, Array]]:
    """Merge matrices `M [*outer, n, N n]` and unmerge matrices `U [*outer, N n, n]`, `U = M^T`."""
    merge = {name: jnp.concatenate(jnp.asarray(part, jnp.float32), axis=-1) for name, part in kept.items()}
    return merge, {name: jnp.swapaxes(matrix, -1, -2) for name, matrix in merge.items()}


def numbers_of_units(kept: Kept) -> dict[str, list[int]]:
    """How many units of each group every network keeps, over all stacks."""
    return {name: [int(part.any(-1).sum()) for part in whole] for name, whole in kept.items()}
