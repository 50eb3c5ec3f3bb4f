"""Mixing weights of merged units: one number for each network and each side of a unit."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.unit_features import in_wide
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import element_shape, transform
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params

Mixing = dict[str, Any]
"""`out` and `in`: group -> weights `[networks, *outer, n]`; `classes`: `[networks, classes]`."""


def init_mixing(spec: PermSpec, classes: Float[Array, "networks classes"]) -> Mixing:
    """The mixing weights of the plain average, but for the classes.

    Args:
        spec: the permutation spec.
        classes: how much each network's row of the head counts for each class; each sums to one.
    """
    num = classes.shape[0]
    ones = {name: jnp.ones((num, *element_shape(spec, name, soft=False))) for name in spec.groups}
    return {"out": ones, "in": dict(ones), "classes": classes}


def mix(
    spec: PermSpec, models: Sequence[Params], mixing: Mixing, statistics: frozenset[str] = frozenset()
) -> Params:
    """Mix aligned networks, unit by unit: `W[i, j] = mean_k out_k[i] in_k[j] W_k[i, j]`.

    Of leaves that produce no group the rows of each class are weighted by `classes`, if they have
    one axis of that size; all others are averaged.

    Args:
        spec: the permutation spec of all of them.
        models: aligned networks, A first.
        mixing: the weights.
        statistics: paths of leaves that hold measured statistics; they are averaged.

    Returns:
        Parameters of the same structure, shapes and dtypes.
    """
    scaled = [flatten_by_path(_scaled(spec, in_wide(params), mixing, k)) for k, params in enumerate(models)]
    plain = [flatten_by_path(params) for params in models]
    entries = {leaf.path: leaf for leaf in spec.leaves}
    leaves = {}
    for path, first in plain[0].items():
        if not jnp.issubdtype(jnp.result_type(first), jnp.inexact):
            leaves[path] = first
            continue
        leaf = entries[path]
        if path in statistics:
            total = sum(wide(values[path]) for values in plain) / len(plain)
        elif produces(leaf):
            total = sum(values[path] for values in scaled) / len(scaled)
        else:
            total = sum(w * v[path] for w, v in zip(_class_weights(leaf, mixing["classes"]), scaled))
        leaves[path] = jnp.asarray(total, jnp.result_type(first))
    return unflatten_like(models[0], leaves)


def produces(leaf: LeafSpec) -> bool:
    """Whether a leaf makes a group, so that its rows are units and not classes."""
    return any(axis.role == "out" for axis in leaf.axes)


def _scaled(spec: PermSpec, params: Params, mixing: Mixing, k: int) -> Params:
    def action(leaf: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        vector = mixing[role][group][k]
        padded = vector.reshape(vector.shape + (1,) * (leaf.ndim - vector.ndim))
        return leaf * jnp.moveaxis(padded, range(vector.ndim), (*outer_axes, axis))

    return transform(spec, params, action)


def _class_weights(leaf: LeafSpec, classes: Float[Array, "networks classes"]) -> Sequence[Array]:
    """One array for every network that is multiplied into the leaf."""
    num, size = classes.shape
    places = [axis for axis, a in enumerate(leaf.axes) if not a.groups and a.size == size]
    if len(places) != 1:
        return [jnp.asarray(1 / num)] * num
    shape = [size if axis == places[0] else 1 for axis in range(len(leaf.axes))]
    return [weights.reshape(shape) for weights in classes]
