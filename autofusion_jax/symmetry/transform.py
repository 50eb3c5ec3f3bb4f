"""Group elements and their action on parameters, by one function `transform` for all methods.

Index form `out[i] = b[perm[i]]`; matrix form `P @ b` with `P[i, perm[i]] = 1`, so that
`pi(B)_l = P_l W_l P_{l-1}^T` (AutoFusion, Eq. 6 and 15). A nested group's element is an array
`[outer, inner]`: `out[h, i] = b[outer_perm[h], inner_perm[h, i]]`.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import checked
from autofusion_jax.partition import split
from autofusion_jax.symmetry.factoring import Action, transform_axes
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, is_float, is_number, unflatten_like
from autofusion_jax.types import Params, Perms, SoftPerms


def transform(spec: PermSpec, params: Params, action: Action) -> Params:
    """Apply `action` to every factor of every leaf that carries a group.

    Every axis is split into its factors first, and a group that stands on several is brought
    together, so an action only ever sees a whole axis. `outer_axes` is where the factors stand
    in which the group is nested (empty if it is not); outer factors are transformed before
    those nested in them.

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
    for leaf in spec.leaves:
        if any(axis.role for axis in leaf.axes):
            value = jnp.asarray(leaves[leaf.path])
            leaves[leaf.path] = transform_axes(spec, leaf.axes, value, action)
    return unflatten_like(params, leaves)


def check_params(spec: PermSpec, params: Params, *, caller: str = "PermSpec", name: str = "params") -> None:
    """Raise ValueError at the first leaf of numbers whose presence or shape is not what `spec` says."""
    shapes = {path: np.shape(leaf) for path, leaf in flatten_by_path(params).items() if is_number(leaf)}
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


@checked
def apply_perm(spec: PermSpec, params: Params, perms: Perms, *, donate: bool = False) -> Params:
    """Reorder the hidden units of a network: `pi(B)_l = P_l W_l P_{l-1}^T` (Eq. 6).

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        perms: group name -> `perm[n]`, or `[*outer, inner]` for a nested group.
        donate: give the memory of `params` to the result; they cannot be used afterwards.

    Returns:
        Parameters of a network with the same function.

    Raises:
        ValueError: `params` or `perms` does not fit `spec`.
    """
    if donate:
        return _donated(apply_perm, spec, params, perms)
    check_elements(spec, perms, soft=False)

    def take(leaf: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        perm = perms[group]
        if not outer_axes:
            return jnp.take(leaf, perm, axis=axis)
        index = jnp.reshape(perm, perm.shape + (1,) * (leaf.ndim - perm.ndim))
        index = jnp.moveaxis(index, range(perm.ndim), (*outer_axes, axis))
        return jnp.take_along_axis(leaf, index, axis=axis)

    return transform(spec, params, take)


@checked
def apply_soft(spec: PermSpec, params: Params, soft_perms: SoftPerms, *, donate: bool = False) -> Params:
    """Mix the hidden units of a network by relaxed permutations (Eq. 15, `S_tau` for `P`).

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        soft_perms: group name -> `[n, n]`, or `[*outer, inner, inner]` for a nested group.
        donate: give the memory of `params` to the result; they cannot be used afterwards.

    Returns:
        Parameters of the same structure, shapes and dtypes. The function is the same only
        where the matrices are permutations.

    Raises:
        ValueError: `params` or `soft_perms` does not fit `spec`.
    """
    if donate:
        return _donated(apply_soft, spec, params, soft_perms)
    check_elements(spec, soft_perms, soft=True)

    def mix(leaf: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        return mix_factor(leaf, axis, outer_axes, soft_perms[group])

    return transform(spec, params, mix)


@checked
def apply_merge(
    spec: PermSpec,
    params: Params,
    merge_matrices: SoftPerms,
    unmerge_matrices: SoftPerms,
    *,
    donate: bool = False,
) -> Params:
    """Map the hidden units of a network by matrices that differ between producers and consumers.

    A leaf that produces a group takes `M W`, one that consumes it `W U`: with `U = M^-1` the
    function of a linear network is kept. Summed over several networks this is the merge of
    ZipIt, `sum_k M_k W_k U_k`. `apply_perm` is the case `M = P`, `U = P^T`.

    Args:
        spec: the permutation spec of `params`; the roles of its axes say which matrix acts.
        params: the parameters.
        merge_matrices: group name -> `M [n, n]`, `[*outer, n, n]` for a nested group; acts
            on axes of role `"out"`: `out[i] = sum_j M[i, j] b[j]`.
        unmerge_matrices: group name -> `U`, likewise; acts on axes of role `"in"`:
            `out[j] = sum_i U[i, j] b[i]`.
        donate: give the memory of `params` to the result; they cannot be used afterwards.

    Returns:
        Parameters of the same structure, shapes and dtypes.

    Raises:
        ValueError: something does not fit `spec`.

    References:
        Stoica, Bolya, Bjorner, Hearn, Hoffman: ZipIt! Merging models from different tasks
        without training, ICLR 2024, Eq. 2-3.
    """
    if donate:
        return _donated(apply_merge, spec, params, merge_matrices, unmerge_matrices)
    check_elements(spec, merge_matrices, soft=True, name="merge_matrices")
    check_elements(spec, unmerge_matrices, soft=True, name="unmerge_matrices")
    unmerge = {name: jnp.swapaxes(matrix, -1, -2) for name, matrix in unmerge_matrices.items()}
    by_role = {"out": merge_matrices, "in": unmerge}

    def mix(leaf: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        return mix_factor(leaf, axis, outer_axes, by_role[role][group])

    return transform(spec, params, mix)


def _donated(apply: Callable[..., Params], spec: PermSpec, params: Params, *elements: SoftPerms) -> Params:
    numbers, rest = split(params)
    made = flatten_by_path(_donating(apply, spec, numbers, *elements))
    # integers of 64 bits would come back narrower; they are numpy's, whose memory is given to nobody
    own = {
        leaf.path: value
        for leaf in spec.leaves
        if isinstance(value := flatten_by_path(numbers)[leaf.path], np.ndarray)
        and not is_float(value)
        and not any(axis.role for axis in leaf.axes)
    }
    return rest.join(unflatten_like(numbers, made | own))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _donating(apply: Callable[..., Params], spec: PermSpec, params: Params, *elements: SoftPerms) -> Params:
    return apply(spec, params, *elements)


def mix_factor(leaf: Array, axis: int, outer_axes: tuple[int, ...], matrix: Array) -> Array:
    """Multiply one factor by a matrix, or by one for each index of the outer factors."""
    matrix = matrix.astype(leaf.dtype)
    where = (*outer_axes, axis)
    front = tuple(range(len(where)))
    moved = jnp.moveaxis(leaf, where, front)
    batch = front[:-1]
    out = jax.lax.dot_general(matrix, moved, (((len(batch) + 1,), (len(batch),)), (batch, batch)))
    return jnp.moveaxis(out, front, where)


def element_shape(spec: PermSpec, group: str, *, soft: bool) -> tuple[int, ...]:
    """The shape of a group's element: `[n]`, `[*outer, n]`, or with a further `n` if soft."""
    size = spec.groups[group].size
    return (*spec.outer_sizes(group), size, *((size,) if soft else ()))


def check_elements(
    spec: PermSpec, elements: Mapping[str, Array], *, soft: bool, name: str | None = None
) -> None:
    """Raise ValueError unless `elements` has one element of the right shape for each group."""
    kind = name or ("soft_perms" if soft else "perms")
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


@checked
def identity_perms(spec: PermSpec) -> dict[str, Array]:
    """The element that moves nothing."""
    shapes = {name: element_shape(spec, name, soft=False) for name in spec.groups}
    return {name: jnp.broadcast_to(jnp.arange(shape[-1]), shape) for name, shape in shapes.items()}


@checked
def random_perms(spec: PermSpec, key: Key[Array, ""]) -> dict[str, Array]:
    """Draw a uniformly random element of the symmetry group."""
    keys = jax.random.split(key, max(len(spec.groups), 1))
    return {
        name: jax.random.permutation(k, perm, axis=-1, independent=True)
        for k, (name, perm) in zip(keys, identity_perms(spec).items())
    }


@checked
def compose(spec: PermSpec, p: Perms, q: Perms) -> dict[str, Array]:
    """The element that first applies `q`, then `p`: matrices multiply as `P_p @ P_q`."""
    return {name: _take(_follow(spec, name, q[name], p), p[name]) for name in spec.groups}


@checked
def invert(spec: PermSpec, p: Perms) -> dict[str, Array]:
    """The element that undoes `p`."""
    out: dict[str, Array] = {}
    for name in sorted(spec.groups, key=lambda name: len(spec.groups[name].nested_in)):
        out[name] = jnp.argsort(_follow(spec, name, p[name], out), axis=-1)
    return {name: out[name] for name in spec.groups}


def _follow(spec: PermSpec, group: str, element: Array, p: Perms) -> Array:
    """Reorder the outer axes of a nested group's element by the outer groups' elements."""
    names = spec.groups[group].nested_in
    for axis, outer in enumerate(names):
        if outer in spec.groups:
            around = [names.index(name) for name in spec.groups[outer].nested_in]
            index = p[outer]
            index = jnp.reshape(index, index.shape + (1,) * (element.ndim - index.ndim))
            index = jnp.moveaxis(index, range(len(around) + 1), (*around, axis))
            element = jnp.take_along_axis(element, index, axis=axis)
    return element


def _take(element: Array, perm: Array) -> Array:
    return jnp.take_along_axis(element, perm, axis=-1)


def soften(spec: PermSpec, perms: Perms) -> dict[str, Array]:
    """Write hard permutations as matrices: `P[i, perm[i]] = 1`."""
    return {name: jax.nn.one_hot(perms[name], group.size) for name, group in spec.groups.items()}
