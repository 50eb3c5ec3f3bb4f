"""Group elements and their action on parameters: one `transform` serves every method.

Index form `out[i] = b[perm[i]]`; matrix form `P @ b` with `P[i, perm[i]] = 1`, so that
`pi(B)_l = P_l W_l P_{l-1}^T` (AutoFusion, Eq. 6 and 15). A nested group's element is an array
`[outer, inner]`: `out[h, i] = b[outer_perm[h], inner_perm[h, i]]`.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.symmetry.axes import Axis, Block, block_size
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params, Perms, SoftPerms

Action: TypeAlias = Callable[[Array, int, int | None, str, str], Array]
"""`action(leaf, axis, outer_axis, group, role)` moves one factor, which stands on `axis`."""


def transform(spec: PermSpec, params: Params, action: Action) -> Params:
    """Apply `action` to every factor of every leaf that carries a group.

    Every axis is split into its factors first, so an action only ever sees a whole axis.
    `outer_axis` is where the group's outer factor stands (None for a group that is not
    nested); outer factors are transformed before those nested in them.

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        action: what to do with one factor.

    Returns:
        Parameters of the same structure and shapes.

    Raises:
        ValueError: `params` does not fit `spec`; names the leaf.
    """
    check_params(spec, params)
    leaves = flatten_by_path(params)
    moved = {leaf.path: _transform_leaf(spec, leaf, leaves[leaf.path], action) for leaf in spec.leaves}
    return unflatten_like(params, moved)


def check_params(spec: PermSpec, params: Params, *, caller: str = "PermSpec", name: str = "params") -> None:
    """Raise ValueError at the first leaf whose presence or shape is not what `spec` says."""
    shapes = {path: jnp.shape(leaf) for path, leaf in flatten_by_path(params).items()}
    expected = {leaf.path: leaf for leaf in spec.leaves}
    for path in [*expected, *(p for p in shapes if p not in expected)]:
        if path not in shapes or path not in expected:
            place = f"{name} has no such leaf" if path in expected else "the spec has no such leaf"
            raise ValueError(f"{caller}: {name}[{path!r}] must be in the network and in the spec; {place}.")
        want, got = expected[path].shape, shapes[path]
        if want != got:
            axis = next((i for i, (w, g) in enumerate(zip(want, got)) if w != g), min(len(want), len(got)))
            carried = f" axis {axis} ({expected[path].axes[axis]})" if axis < len(want) else ""
            raise ValueError(
                f"{caller}: {name}[{path!r}]{carried} must have shape {want} as in the spec; got {got}. "
                "Use the spec of this architecture and width."
            )


def _transform_leaf(spec: PermSpec, leaf: LeafSpec, value: Array, action: Action) -> Array:
    for number, axis in enumerate(leaf.axes):
        if len(axis.blocks) > 1:
            return _transform_blocks(spec, leaf, value, action, number)
    if not any(axis.groups for axis in leaf.axes):
        return value
    factors = [(f, n, axis.role) for n, axis in enumerate(leaf.axes) for f in axis.blocks[0]]
    out = jnp.reshape(value, [f.size for f, _, _ in factors])
    where = [(f.group, position, number) for position, (f, number, _) in enumerate(factors) if f.group]
    where.sort(key=lambda item: spec.groups[item[0]].nested_in is not None)
    for group, position, number in where:
        outer = spec.groups[group].nested_in
        outer_axis = None if outer is None else _outer_position(leaf, where, outer, number)
        out = action(out, position, outer_axis, group, factors[position][2] or "out")
    return jnp.reshape(out, jnp.shape(value))


def _outer_position(leaf: LeafSpec, where: list[tuple[str, int, int]], outer: str, number: int) -> int:
    """Find the factor in which another is nested: on its own axis first, else the only one."""
    places = [(axis, position) for group, position, axis in where if group == outer]
    same = [position for axis, position in places if axis == number]
    found = same or [position for _, position in places]
    if len(found) != 1:
        raise ValueError(
            f"PermSpec: {leaf.path} axis {number} carries a group nested in {outer!r}, which must "
            f"stand exactly once on that axis or in the leaf; it stands {len(found)} times."
        )
    return found[0]


def _transform_blocks(spec: PermSpec, leaf: LeafSpec, value: Array, action: Action, number: int) -> Array:
    blocks: tuple[Block, ...] = leaf.axes[number].blocks
    parts, start = [], 0
    for block in blocks:
        size = block_size(block)
        role = leaf.axes[number].role if any(f.group for f in block) else None
        axes = (*leaf.axes[:number], Axis((block,), role), *leaf.axes[number + 1 :])
        part = jax.lax.slice_in_dim(value, start, start + size, axis=number)
        parts.append(_transform_leaf(spec, LeafSpec(leaf.path, axes), part, action))
        start += size
    return jnp.concatenate(parts, axis=number)


def apply_perm(spec: PermSpec, params: Params, perms: Perms) -> Params:
    """Reorder the hidden units of a network: `pi(B)_l = P_l W_l P_{l-1}^T` (Eq. 6).

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        perms: group name -> `perm[n]`, or `[outer, inner]` for a nested group.

    Returns:
        Parameters of a network with the same function.

    Raises:
        ValueError: `params` or `perms` does not fit `spec`.
    """
    check_elements(spec, perms, soft=False)

    def take(leaf: Array, axis: int, outer_axis: int | None, group: str, role: str) -> Array:
        perm = perms[group]
        if outer_axis is None:
            return jnp.take(leaf, perm, axis=axis)
        index = jnp.moveaxis(
            jnp.reshape(perm, perm.shape + (1,) * (leaf.ndim - 2)), (0, 1), (outer_axis, axis)
        )
        return jnp.take_along_axis(leaf, index, axis=axis)

    return transform(spec, params, take)


def apply_soft(spec: PermSpec, params: Params, soft_perms: SoftPerms) -> Params:
    """Mix the hidden units of a network by relaxed permutations (Eq. 15, `S_tau` for `P`).

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        soft_perms: group name -> `[n, n]`, or `[outer, inner, inner]` for a nested group.

    Returns:
        Parameters of the same structure, shapes and dtypes. The function is the same only
        where the matrices are permutations.

    Raises:
        ValueError: `params` or `soft_perms` does not fit `spec`.
    """
    check_elements(spec, soft_perms, soft=True)

    def mix(leaf: Array, axis: int, outer_axis: int | None, group: str, role: str) -> Array:
        matrix = soft_perms[group].astype(leaf.dtype)
        if outer_axis is None:
            return jnp.moveaxis(jnp.tensordot(matrix, leaf, axes=(1, axis)), 0, axis)
        nested = jnp.moveaxis(leaf, (outer_axis, axis), (0, 1))
        return jnp.moveaxis(jnp.einsum("hij,hj...->hi...", matrix, nested), (0, 1), (outer_axis, axis))

    return transform(spec, params, mix)


def element_shape(spec: PermSpec, group: str, *, soft: bool) -> tuple[int, ...]:
    """The shape of a group's element: `[n]`, `[outer, n]`, or with a further `n` if soft."""
    this = spec.groups[group]
    outer = () if this.nested_in is None else (spec.groups[this.nested_in].size,)
    return (*outer, this.size, *((this.size,) if soft else ()))


def check_elements(spec: PermSpec, elements: Mapping[str, Array], *, soft: bool) -> None:
    """Raise ValueError unless `elements` has one element of the right shape for each group."""
    kind = "soft_perms" if soft else "perms"
    for group in [*spec.groups, *(g for g in elements if g not in spec.groups)]:
        if group not in elements or group not in spec.groups:
            raise ValueError(
                f"{kind} must have exactly the groups of the spec, {list(spec.groups)}; "
                f"{'missing' if group in spec.groups else 'unknown'}: {group!r}."
            )
        want, got = element_shape(spec, group, soft=soft), jnp.shape(elements[group])
        is_int = jnp.issubdtype(elements[group].dtype, jnp.integer)
        if want != got or is_int == soft:
            raise ValueError(
                f"{kind}[{group!r}] must be {'floats' if soft else 'integers'} of shape {want}; "
                f"got {elements[group].dtype}{list(got)}."
            )


def is_soft(perms: Mapping[str, Array]) -> bool:
    """Tell soft permutations (floats) from hard ones (integers)."""
    return any(jnp.issubdtype(element.dtype, jnp.floating) for element in perms.values())


def permute(spec: PermSpec, params: Params, perms: Perms | SoftPerms) -> Params:
    """Apply hard or soft permutations, whichever they are."""
    return (apply_soft if is_soft(perms) else apply_perm)(spec, params, perms)


def identity_perms(spec: PermSpec) -> dict[str, Array]:
    """The element that moves nothing."""
    shapes = {name: element_shape(spec, name, soft=False) for name in spec.groups}
    return {name: jnp.broadcast_to(jnp.arange(shape[-1]), shape) for name, shape in shapes.items()}


def random_perms(spec: PermSpec, key: Key[Array, ""]) -> dict[str, Array]:
    """Draw a uniformly random element of the symmetry group."""
    keys = jax.random.split(key, max(len(spec.groups), 1))
    return {
        name: jax.random.permutation(k, perm, axis=-1, independent=True)
        for k, (name, perm) in zip(keys, identity_perms(spec).items())
    }


def compose(spec: PermSpec, p: Perms, q: Perms) -> dict[str, Array]:
    """The element that first applies `q`, then `p`: matrices multiply as `P_p @ P_q`."""
    out = {}
    for name, group in spec.groups.items():
        if group.nested_in is None:
            out[name] = q[name][p[name]]
        else:
            out[name] = jnp.take_along_axis(q[name][p[group.nested_in]], p[name], axis=-1)
    return out


def invert(spec: PermSpec, p: Perms) -> dict[str, Array]:
    """The element that undoes `p`."""
    out = {name: jnp.argsort(p[name]) for name, g in spec.groups.items() if g.nested_in is None}
    for name, group in spec.groups.items():
        if group.nested_in is not None:
            out[name] = jnp.argsort(p[name][out[group.nested_in]], axis=-1)
    return {name: out[name] for name in spec.groups}


def soften(spec: PermSpec, perms: Perms) -> dict[str, Array]:
    """Write hard permutations as matrices: `P[i, perm[i]] = 1`."""
    return {name: jax.nn.one_hot(perms[name], group.size) for name, group in spec.groups.items()}
