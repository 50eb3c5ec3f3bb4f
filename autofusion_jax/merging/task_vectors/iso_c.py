"""Iso-C: the summed task vector with all singular values alike."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.arguments import Positive
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.svd import add_matrices, significant
from autofusion_jax.precision import length
from autofusion_jax.types import Params, Scalar


@factory
def iso_c(*, scale: Positive = 1.0, convs: bool = False) -> Method:
    """Add an isotropic sum: `base + scale * mean(s) U V^T`, `U diag(s) V^T = sum_k (params_k - base)`.

    So for leaves that are matrices; of all others the mean of the task vectors is added. Where the sum has
    not full rank, only singular values above zero count, for the mean as well: the vectors of the others
    are arbitrary.

    Args:
        scale: how much is added, > 0 (alpha in the paper, chosen there on held-out data; 1 in
            FusionBench).
        convs: take kernels of four axes as matrices, too.

    Returns:
        A method for any number of networks; needs `base`. `add_isotropic` is its formula as a pure
        function, vmap-able over `scale`.

    Raises:
        ValueError: scale is not above 0.

    References:
        Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de Weijer: No task left behind:
        isotropic model merging with common and task-specific subspaces, ICML 2025, Algorithm 1.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return aligned_result(task, add_isotropic(task.require_base(), task.models, scale, convs=convs))

    return Method(
        "iso_c",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="leaf",
        needs_base=True,
    )


@functools.partial(jax.jit, static_argnames="convs")
def add_isotropic(base: Params, models: Sequence[Params], scale: Scalar, *, convs: bool = False) -> Params:
    """The formula of `iso_c`.

    Example:
        >>> base = {"w": jnp.zeros((2, 2))}
        >>> models = [{"w": jnp.array([[3.0, 0.0], [0.0, 0.0]])}, {"w": jnp.array([[0.0, 0.0], [0.0, 1.0]])}]
        >>> add_isotropic(base, models, 1.0)["w"].round(4).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    def matrix(deltas: Inexact[Array, "models m n"]) -> Inexact[Array, "m n"]:
        u, s, vt = jnp.linalg.svd(deltas.sum(0), full_matrices=False)
        # task vectors that cancel leave rounding errors of their own size, not of the sum's
        typical = sum(length(jnp.abs(delta)) for delta in deltas) / len(s) ** 0.5
        counts = significant(s, deltas.shape[1:], typical)
        return jnp.mean(s, where=counts | ~counts.any()) * (u * counts) @ vt

    return add_matrices(matrix, base, models, scale, convs=convs)
