"""Exact assignment on the host, batched."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from autofusion_jax.arguments import checked
from autofusion_jax.validation import require


@checked
def solve_assignment(similarity: Float[Array | np.ndarray, "..."]) -> Int[Array, "..."]:
    """Find the permutation that maximises `sum_i similarity[i, perm[i]]`.

    Solved exactly by `scipy.optimize.linear_sum_assignment` on the host, in float64; under jit
    and vmap through a callback, which is faster than `optax.assignment.hungarian_algorithm`
    compiled (2-core CPU, ms: n = 128 0.5 against 2, n = 1024 136 against 547; under vmap over 8
    matrices n = 128 7 against 52, n = 512 216 against 3440) and keeps one result for both.

    Args:
        similarity: `[..., n, n]`; rows index model A's units, columns model B's.

    Returns:
        `perm [..., n]`: model A's unit i is matched to model B's unit `perm[i]`.

    Raises:
        ValueError: the matrices are not square, not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> solve_assignment(jnp.array([[0.0, 2.0], [1.0, 0.0]])).tolist()
        [1, 0]
    """
    square = similarity.ndim >= 2 and similarity.shape[-1] == similarity.shape[-2]
    real = jnp.issubdtype(similarity.dtype, np.number) and not jnp.iscomplexobj(similarity)
    must_be, got = "real numbers [..., n, n]", f"{similarity.dtype}{list(similarity.shape)}"
    require(square and real, "solve_assignment", "similarity", must_be, got)
    result = jax.ShapeDtypeStruct(similarity.shape[:-1], np.dtype(np.int32))
    if not isinstance(similarity, Tracer):
        return jnp.asarray(_solve_on_host(similarity))
    return jax.pure_callback(_solve_on_host, result, similarity, vmap_method="expand_dims")


def _solve_on_host(similarity: Array | np.ndarray) -> np.ndarray:
    matrices = np.asarray(similarity, np.float64)
    if not np.isfinite(matrices).all():
        raise ValueError("solve_assignment: similarity must be finite; got NaN or infinity.")
    n = matrices.shape[-1]
    perms = [linear_sum_assignment(m, maximize=True)[1] for m in matrices.reshape(-1, n, n)]
    return np.asarray(perms, np.int32).reshape(matrices.shape[:-1])
