"""Similarities of the units of N networks by their weights, once the units around them are merged."""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.unit_features import real_parts, unit_vectors
from autofusion_jax.merging.zipping.combine import split_by_model
from autofusion_jax.merging.zipping.family_matching import Matching
from autofusion_jax.merging.zipping.similarities import in_blocks, num_stacks, shrunk_correlation
from autofusion_jax.precision import scale_of, widened
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.moments import batch_moments
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import mix_factor, transform
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params


def aligned_correlations(
    spec: PermSpec,
    models: Sequence[Params],
    matching: Matching,
    group: str,
    *,
    ignored: frozenset[str] = frozenset(),
) -> Float[Array, "*stacks rows rows"]:
    """Correlations of the units' weights, seen from the merged units around them (MuDSC, Eq. 6).

    Pearson's, as far as there are as many weights as units; see `similarities.shrunk_correlation`.

    A unit's vector holds its entries in every leaf axis that carries the group, in either role,
    biases and norm scales included. On the other axes of these leaves the units of other
    groups are merged: where they are read, `N M_k` averages the weights of those that became
    one; where they are produced, `U_k^T` sums them.

    Args:
        spec: the permutation spec.
        models: parameters of N networks.
        matching: the present matrices; groups without any are left as they are.
        group: name of an inner group, whose own matrices are not applied.
        ignored: paths of leaves that do not count (measured statistics of norms).

    Returns:
        `[*stacks, N G n, N G n]`, the units of the first network first, block after block, in
        their original order.

    References:
        Xu et al.: Training-free pretrained model merging (MuDSC), CVPR 2024, Eq. 6.
    """
    spec, models = real_parts(spec, models)
    around = _around(spec, group, ignored)
    near = {name for leaf in around.leaves for axis in leaf.axes for name in axis.groups} - {group}
    flat = [flatten_by_path(params) for params in models]
    return _correlations(
        around,
        group,
        tuple({leaf.path: leaves[leaf.path] for leaf in around.leaves} for leaves in flat),
        {name: matrix for name, matrix in matching.merge.items() if name in near},
        {name: matrix for name, matrix in matching.unmerge.items() if name in near},
        matching.blocks.get(group),
    )


@functools.lru_cache(maxsize=1024)
def _around(spec: PermSpec, group: str, ignored: frozenset[str]) -> PermSpec:
    """The spec with no other leaves than those that carry the group."""
    leaves = tuple(
        leaf
        for leaf in spec.leaves
        if leaf.path not in ignored and any(group in axis.groups for axis in leaf.axes)
    )
    return dataclasses.replace(spec, leaves=leaves, apply_fn=None, notes=(), sites=())


@jit_by_network(static_argnames=("group",))
def _correlations(
    spec: PermSpec,
    group: str,
    models: tuple[Params, ...],
    merge_matrices: dict[str, Array],
    unmerge_matrices: dict[str, Array],
    places: Array | None,
) -> Array:
    merges, unmerges = split_by_model(len(models), merge_matrices, unmerge_matrices)
    outer = {name for other in spec.groups.values() for name in other.nested_in}
    vectors = []
    for k, (params, merge, unmerge) in enumerate(zip(models, merges, unmerges)):
        read = {name: m * (1 if name in outer else len(models)) for name, m in merge.items()}
        made = {name: jnp.swapaxes(u, -1, -2) for name, u in unmerge.items()}
        leaves = unit_vectors(spec, _mixed(spec, params, {"in": read, "out": made}), group)
        rows = in_blocks(spec, group, jnp.concatenate([jnp.moveaxis(leaf, -1, 0) for leaf in leaves]))
        if places is not None:  # its outer groups have been permuted with the others: back
            rows = _original_order(rows, places[..., k, :])
        vectors.append(rows)
    values = jnp.stack(vectors)
    return shrunk_correlation(batch_moments(values / scale_of(widened(values)), num_stacks(spec, group)))


def _mixed(spec: PermSpec, params: Params, by_role: dict[str, dict[str, Array]]) -> Params:
    def mix(leaf: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        matrix = by_role[role].get(name)
        return leaf if matrix is None else mix_factor(leaf, axis, outer_axes, matrix)

    return transform(spec, params, mix)


def _original_order(rows: Array, places: Array) -> Array:
    """Move block h of `[weights, *stacks, G n]` to place `places[h]`."""
    blocks = rows.reshape(*rows.shape[:-1], places.shape[-1], -1)
    return jnp.take_along_axis(blocks, jnp.argsort(places, -1)[None, ..., None], -2).reshape(rows.shape)
