"""Features by which units are compared: all of their weights, and moments of their activations."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import one_of
from autofusion_jax.precision import scale_of, wide, widened
from autofusion_jax.symmetry.axes import fixed_axis
from autofusion_jax.symmetry.moments import Moments
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import transform
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params

KINDS = {
    "correlation": Moments.correlation,
    "covariance": lambda moments: moments.cov.real,
    "second_moment": lambda moments: moments.second_moment().real,
}
"""What makes a similarity of the moments: Pearson correlation, covariance, or `E[a b]`; the real part of
these for complex units."""
Kind = Annotated[str, one_of(*KINDS)]

BATCH_SIZE = 500
"""Inputs whose activations are held at once."""


def real_parts(spec: PermSpec, models: Sequence[Params]) -> tuple[PermSpec, list[Params]]:
    """Networks as real numbers, in float32 or wider, and the spec of such networks.

    Complex leaves `[...]` become their real and imaginary parts `[..., 2]`. So inner products, distances
    and norms of the weights are those of complex vectors, `Re <a, b>`, and matrices that mix units act on
    both parts alike. The spec has neither `apply_fn` nor sites.

    Args:
        spec: the permutation spec of the networks.
        models: parameters of one structure.
    """
    flat = [flatten_by_path(params) for params in models]
    dtypes = {path: jnp.result_type(leaf) for path, leaf in flat[0].items()}
    split = frozenset(path for path, d in dtypes.items() if jnp.issubdtype(d, jnp.complexfloating))
    real = [{path: widened(leaf) for path, leaf in leaves.items()} for leaves in flat]
    return _with_parts(spec, split), [unflatten_like(params, leaves) for params, leaves in zip(models, real)]


def common_unit(models: Sequence[Params]) -> float:
    """The power of two next below the largest weight of all networks; divided by it, no square overflows."""
    leaves = [leaf for leaf in jax.tree.leaves(models) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return max((float(scale_of(widened(leaf))) for leaf in leaves if np.any(leaf)), default=1.0)


def in_wide(params: Params) -> Params:
    """A network's floats and complex numbers in the wide dtypes, to be mixed by matrices."""

    def leaf(value: Any) -> Any:
        return wide(value) if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value

    return jax.tree.map(leaf, params)


def divided(params: Params, unit: float) -> Params:
    """A real network's floats divided by a number; other leaves as they are."""

    def leaf(value: Any) -> Any:
        return value / unit if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value

    return jax.tree.map(leaf, params)


@functools.lru_cache(maxsize=1024)
def _with_parts(spec: PermSpec, split: frozenset[str]) -> PermSpec:
    leaves = tuple(
        dataclasses.replace(leaf, axes=(*leaf.axes, fixed_axis(2))) if leaf.path in split else leaf
        for leaf in spec.leaves
    )
    return dataclasses.replace(spec, leaves=leaves, apply_fn=None, notes=(), sites=())


def unit_vectors(spec: PermSpec, params: Params, group: str) -> list[Float[Array, "*outer n weights"]]:
    """All weights of every unit of a group: one array for each leaf axis that carries it, in either role.

    Args:
        spec: the permutation spec of `params`.
        params: the parameters, real: from `real_parts`.
        group: name of the group.

    Returns:
        Arrays `[*outer, n, weights]`, biases, norm scales and statistics included, in the order
        of the leaves.
    """
    views: list[Array] = []

    def collect(leaf: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name == group:
            front = (*outer_axes, axis)
            lead = [leaf.shape[i] for i in front]
            views.append(jnp.moveaxis(leaf, front, range(len(front))).reshape(*lead, -1))
        return leaf

    transform(spec, params, collect)
    return views
