"""Numerical check of a permutation spec: random group elements must not change the outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.symmetry.axes import Axis, Factor, fixed_axis
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import apply_perm, check_params, identity_perms, random_perms
from autofusion_jax.types import Params, Perms

NUM_DRAWS = 3


def check_perm_spec(spec: PermSpec, params: Params, x: Array) -> float:
    """Draw random group elements, apply them, and compare the outputs.

    Args:
        spec: the spec to check; must carry an `apply_fn`.
        params: parameters of the network, not symmetric ones (freshly initialised will do).
        x: inputs `[N, ...]`; a few are enough.

    Returns:
        The largest change of an output, relative to the largest output.

    Raises:
        ValueError: the outputs change by more than rounding explains; names the group, the
            leaf and axis most likely wrong, and the size of the change. Also if the spec has
            no `apply_fn` or does not fit `params`.
    """
    check_params(spec, params, caller="check_perm_spec")
    tolerance = _tolerance(spec, params)
    worst = 0.0
    for draw in range(NUM_DRAWS):
        perms = random_perms(spec, jax.random.key(draw))
        worst = max(worst, _change(spec, params, x, perms))
    if worst > tolerance:
        raise ValueError(_explain(spec, params, x, worst, tolerance))
    return worst


def _tolerance(spec: PermSpec, params: Params) -> float:
    """Rounding of the widest sum, once a layer: eps * sqrt(n) * layers, with a margin of 50."""
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    eps = max(float(jnp.finfo(dtype).eps) for dtype in [*floats, jnp.float32])
    widest = max((axis.size for leaf in spec.leaves for axis in leaf.axes), default=1)
    return 50 * eps * widest**0.5 * max(len(spec.layers), 1)


def _change(spec: PermSpec, params: Params, x: Array, perms: Perms) -> float:
    apply_fn = spec.apply_fn
    if apply_fn is None:
        raise ValueError("check_perm_spec: spec must carry an apply_fn; give PermSpec(..., apply_fn=f).")
    before = [np.asarray(y) for y in jax.tree.leaves(apply_fn(params, x))]
    after = [np.asarray(y) for y in jax.tree.leaves(apply_fn(apply_perm(spec, params, perms), x))]
    if not all(np.isfinite(y).all() for y in (*before, *after)):
        raise ValueError(
            "check_perm_spec: the outputs must be finite; got NaN or infinity. Check params and x."
        )
    scale = max(float(np.abs(y).max()) for y in before) or 1.0
    return max(float(np.abs(b - a).max()) for b, a in zip(before, after)) / scale


def _explain(spec: PermSpec, params: Params, x: Array, worst: float, tolerance: float) -> str:
    """Name the group that breaks the function, and the axis whose relabelling mends it."""
    identity = identity_perms(spec)
    for name in spec.groups:
        perms = {**identity, name: random_perms(spec, jax.random.key(1))[name]}
        change = _change(spec, params, x, perms)
        if change > tolerance:
            place = _suspect(spec, params, x, name, perms, tolerance)
            return (
                f"check_perm_spec: reordering group {name!r} must leave the outputs as they are; "
                f"they change by {change:.1e} (tolerance {tolerance:.1e}). {place}"
            )
    return (
        f"check_perm_spec: reordering all groups changes the outputs by {worst:.1e} (tolerance "
        f"{tolerance:.1e}), though no group alone does: a nesting or a shared axis is wrong."
    )


def _suspect(spec: PermSpec, params: Params, x: Array, name: str, perms: Perms, tolerance: float) -> str:
    carriers = []
    for index, leaf in enumerate(spec.leaves):
        for number, axis in enumerate(leaf.axes):
            if name in axis.groups:
                carriers.append(f"{leaf.path} axis {number}")
                other, advice = fixed_axis(axis.size), "should not carry it"
            elif not axis.groups and axis.size == spec.groups[name].size:
                other, advice = Axis(((Factor(axis.size, name),),), "out"), "should carry it as well"
            else:
                continue
            changed = _with_axis(spec, index, leaf, number, other)
            still_there = any(name in a.groups for item in changed.leaves for a in item.axes)
            if still_there and _change(changed, params, x, perms) <= tolerance:
                return f"{leaf.path} axis {number} {advice}."
    return f"It is carried by {', '.join(carriers)}: one of them is wrong or another is missing."


def _with_axis(spec: PermSpec, index: int, leaf: LeafSpec, number: int, axis: Axis) -> PermSpec:
    axes = (*leaf.axes[:number], axis, *leaf.axes[number + 1 :])
    leaves = (*spec.leaves[:index], LeafSpec(leaf.path, axes), *spec.leaves[index + 1 :])
    return dataclasses.replace(spec, leaves=leaves)
