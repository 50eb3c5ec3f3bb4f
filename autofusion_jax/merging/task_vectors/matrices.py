"""Task vectors matrix by matrix, for methods that look at singular values."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.merging.task_vectors.deltas import delta_of
from autofusion_jax.types import Params

Scalar = float | Float[Array, ""]


def add_matrices(
    fn: Callable[[Float[Array, "models m n"]], Float[Array, "m n"]],
    base: Params,
    models: Sequence[Params],
    scale: Scalar,
    *,
    convs: bool,
) -> Params:
    """`base + scale * fn(deltas)` for leaves that are matrices, and the mean of the deltas for all others.

    Args:
        fn: takes the task vectors of a matrix, returns the merged one.
        base: parameters of the network that all were fine-tuned from.
        models: parameters of one structure.
        scale: how much is added.
        convs: take leaves of four axes as matrices, too: all axes but the last one together, the
            last one as columns (flax's `[height, width, in, out]`).

    Example:
        >>> base = {"bias": jnp.zeros(2), "kernel": jnp.zeros((2, 2))}
        >>> models = [{"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}] * 2
        >>> merged = add_matrices(lambda deltas: deltas.sum(0), base, models, 1.0, convs=False)
        >>> merged["bias"].tolist(), merged["kernel"].tolist()
        ([1.0, 1.0], [[2.0, 2.0], [2.0, 2.0]])
    """

    def leaf(origin: Array, *values: Array) -> Array:
        deltas = [delta_of(value, origin) for value in values]
        if origin.ndim == 2 or (origin.ndim == 4 and convs):
            together = jnp.stack(deltas).reshape(len(values), -1, origin.shape[-1])
            return origin + scale * fn(together).reshape(origin.shape)
        return origin + scale * sum(deltas) / len(values)

    return merge_leaves(leaf, [base, *models])


def polar(matrix: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """The nearest matrix with orthonormal rows or columns: `U V^T`, where `U diag(s) V^T` is the matrix.

    Example:
        >>> polar(jnp.array([[0.0, 2.0], [5.0, 0.0]])).round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    u, _, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u @ vt
