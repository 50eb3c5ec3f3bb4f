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


def thin_svd(
    matrices: Float[Array, "*batch m n"],
) -> tuple[Float[Array, "*batch m r"], Float[Array, "*batch r"], Float[Array, "*batch r n"]]:
    """Singular value decompositions `U diag(s) V^T`, `r = min(m, n)`, each in a call of its own.

    jaxlib 0.10 shares out the matrices of one batched call among the threads that run the program, and
    waits. Where every thread is in such a call, as on two cores, the program stands still for ever.

    Example:
        >>> [round(float(value), 4) for value in thin_svd(jnp.diag(jnp.array([1.0, 2.0])))[1]]
        [2.0, 1.0]
    """
    batch, shape = matrices.shape[:-2], matrices.shape[-2:]
    each = [jnp.linalg.svd(matrix, full_matrices=False) for matrix in matrices.reshape(-1, *shape)]
    u, s, vt = (jnp.stack(part).reshape(*batch, *part[0].shape) for part in zip(*each))
    return u, s, vt


def polar(matrix: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """The nearest matrix with orthonormal rows or columns: `U V^T`, where `U diag(s) V^T` is the matrix.

    Example:
        >>> polar(jnp.array([[0.0, 2.0], [5.0, 0.0]])).round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    u, _, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u @ vt
