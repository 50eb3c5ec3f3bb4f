"""Put zipped networks together: `sum_k M_k W_k U_k` for every leaf of N networks."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.unit_features import in_wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_merge, mix_factor, transform
from autofusion_jax.types import Params, SoftPerms


def zip_models(
    spec: PermSpec,
    models: Sequence[Params],
    merge_matrices: Mapping[str, Float[Array, "*outer n rows"]],
    unmerge_matrices: Mapping[str, Float[Array, "*outer rows n"]],
) -> Params:
    """Zip N networks into one by merge and unmerge matrices (ZipIt, Eq. 2-4).

    A leaf that produces a group takes `sum_k M_k W_k U_k`, `M_k` and `U_k` the blocks of network
    k. Every place of it is then divided by the weight that it has received from all networks
    together, the same sum for a leaf of ones without the `U_k`. So leaves that produce no group
    (the head, fixed outputs) are means, and an outer group that is permuted by `M_k = P_k`,
    `U_k = P_k^T` may hold groups that are zipped. A variance is mixed by `M_k` like a mean.

    Args:
        spec: the permutation spec of the networks.
        models: parameters of N networks.
        merge_matrices: group name -> `M`, `n` merged units from the `rows = N n` units of all
            networks; rows that sum to 1, or for an outer group one permutation per network.
        unmerge_matrices: group name -> `U`.

    Returns:
        Parameters in the structure and dtypes of the first network, whose leaves that are not
        floats are kept.

    Raises:
        ValueError: something does not fit `spec`.

    References:
        Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman: ZipIt! Merging models from different tasks
        without training, ICLR 2024.

    Example:
        >>> from autofusion_jax.symmetry.axes import in_axis, out_axis
        >>> a = {"up": jnp.array([[1.0, 2.0]]), "down": jnp.array([[3.0], [4.0]])}
        >>> b = {"up": jnp.array([[2.0, 1.0]]), "down": jnp.array([[4.0], [3.0]])}
        >>> spec = PermSpec.from_table({"up": (None, out_axis("up")), "down": (in_axis("up"), None)}, a)
        >>> unmerge = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
        >>> zipped = zip_models(spec, [a, b], {"up": unmerge.T / 2}, {"up": unmerge})
        >>> zipped["up"].tolist(), zipped["down"].tolist()
        ([[1.0, 2.0]], [[3.0], [4.0]])
    """
    return _zip_models(spec, tuple(models), dict(merge_matrices), dict(unmerge_matrices))


@jit_by_network()
def _zip_models(
    spec: PermSpec, models: tuple[Params, ...], merge_matrices: SoftPerms, unmerge_matrices: SoftPerms
) -> Params:
    merges, unmerges = split_by_model(len(models), merge_matrices, unmerge_matrices)
    parts = [apply_merge(spec, *each) for each in zip(map(in_wide, models), merges, unmerges)]
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    return jax.tree.map(_share, models[0], total, _received(spec, models[0], merges))


@jit_by_network()
def produced_parts(
    spec: PermSpec, models: tuple[Params, ...], merge_matrices: SoftPerms
) -> tuple[Params, ...]:
    """What each network makes of merged units: its leaves, not yet mapped where they read units.

    `M_k W_k` instead of `M_k W_k U_k`, with the weights of `zip_models`: a layer of network k with
    such a weight reads what the network reads, and makes its part of what the merged one makes.

    Args:
        spec: the permutation spec of the networks.
        models: parameters of N networks.
        merge_matrices: as for `zip_models`.

    Returns:
        Parameters for each network; leaves that are not floats are the first one's.
    """
    merges = _by_model(len(models), merge_matrices, -1)
    received = _received(spec, models[0], merges)
    return tuple(
        jax.tree.map(_share, models[0], _produced(spec, in_wide(params), merge), received)
        for params, merge in zip(models, merges)
    )


def _received(spec: PermSpec, params: Params, merges: Sequence[SoftPerms]) -> Params:
    """The weight that every place of the merged leaves has received from all networks together."""
    ones = jax.tree.map(jnp.ones_like, in_wide(params))
    return jax.tree.map(lambda *leaves: sum(leaves), *(_produced(spec, ones, merge) for merge in merges))


def _share(first: Array, part: Array, weight: Array) -> Array:
    if not jnp.issubdtype(jnp.result_type(first), jnp.inexact):
        return first
    some = weight != 0  # 0 where no network has both units: there is nothing to mix
    return jnp.where(some, part / jnp.where(some, weight, 1), 0).astype(jnp.result_type(first))


def _produced(spec: PermSpec, params: Params, merge: SoftPerms) -> Params:
    """Map the units by merge matrices where they are produced, and not where they are read."""

    def mix(leaf: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        return mix_factor(leaf, axis, outer_axes, merge[group]) if role == "out" else leaf

    return transform(spec, params, mix)


def split_by_model(
    num_models: int, merge_matrices: SoftPerms, unmerge_matrices: SoftPerms
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Cut merge and unmerge matrices into one `[*outer, n, n]` block for each network.

    Args:
        num_models: how many networks.
        merge_matrices: group name -> `[*outer, n, N n]`.
        unmerge_matrices: group name -> `[*outer, N n, n]`.

    Returns:
        For each network: group name -> `M_k`; and group name -> `U_k`.
    """
    return _by_model(num_models, merge_matrices, -1), _by_model(num_models, unmerge_matrices, -2)


def _by_model(num_models: int, matrices: SoftPerms, axis: int) -> list[dict[str, Array]]:
    blocks = {name: jnp.split(matrix, num_models, axis=axis) for name, matrix in matrices.items()}
    return [{name: parts[k] for name, parts in blocks.items()} for k in range(num_models)]
