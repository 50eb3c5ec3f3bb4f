"""Task vectors matrix by matrix, for methods that look at singular values."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Inexact

from autofusion_jax.merging.task_vectors.deltas import deltas_of
from autofusion_jax.precision import wide
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params, Scalar


def add_matrices(
    fn: Callable[[Inexact[Array, "models m n"]], Inexact[Array, "m n"]],
    base: Params,
    models: Sequence[Params],
    scale: Scalar,
    *,
    convs: bool,
) -> Params:
    """`base + scale * fn(deltas)` for leaves that are matrices, and the mean of the deltas for all others.

    Args:
        fn: takes the task vectors of a matrix, in float32 or wider, returns the merged one; twice as large
            ones give twice its value. Complex matrices are complex.
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
        dtype = jnp.result_type(origin)
        if not is_float(origin):
            return origin
        # the singular vectors of a complex matrix are complex: it is not taken apart into real numbers
        origin, values = wide(origin), tuple(map(wide, values))
        room, changes = deltas_of(origin, values, by_leaf=True)
        deltas = jnp.stack(changes)
        is_matrix = origin.size > 0 and (origin.ndim == 2 or (origin.ndim == 4 and convs))
        together = deltas.reshape(len(values), -1, origin.shape[-1]) if is_matrix else deltas
        added = fn(together).reshape(origin.shape) if is_matrix else deltas.mean(0)
        return ((origin * room + scale * added) / room).astype(dtype)

    return jax.tree.map(leaf, base, *models)


def thin_svd(
    matrices: Inexact[Array, "*batch m n"],
) -> tuple[Inexact[Array, "*batch m r"], Float[Array, "*batch r"], Inexact[Array, "*batch r n"]]:
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


def significant(
    sizes: Float[Array, "*batch r"], shape: tuple[int, ...], scale: Float[Array, ""] | None = None
) -> Bool[Array, "*batch r"]:
    """Which singular values are more than rounding errors; the vectors of all others are arbitrary.

    Args:
        sizes: singular values, the largest first.
        shape: `[m, n]` of the matrix.
        scale: the size of what the matrix was made of by sums and differences, if that was larger.

    Example:
        >>> significant(jnp.array([2.0, 1e-3, 1e-8, 0.0]), (4, 4)).tolist()
        [True, True, False, False]
    """
    largest = sizes[..., :1] if scale is None else jnp.maximum(sizes[..., :1], scale)
    return sizes > 4 * jnp.finfo(sizes.dtype).eps * max(shape) ** 0.5 * largest


def polar(matrix: Inexact[Array, "m n"]) -> Inexact[Array, "m n"]:
    """The nearest matrix with orthonormal rows or columns: `U V^T`, where `U diag(s) V^T` is the matrix.

    Of a matrix without full rank only singular vectors of s above zero count: the nearest partial isometry.

    Example:
        >>> polar(jnp.array([[0.0, 2.0], [5.0, 0.0]])).round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
        >>> polar(jnp.array([[0.0, 2.0], [0.0, 0.0]])).round(4).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return u * significant(s, matrix.shape) @ vt
