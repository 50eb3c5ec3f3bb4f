"""TSV-Merge: the largest singular vectors of every task vector, made orthogonal to one another."""

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
from autofusion_jax.merging.task_vectors.svd import add_matrices, polar, significant, thin_svd
from autofusion_jax.types import Params, Scalar


@factory
def tsv(*, scale: Positive = 1.0, convs: bool = False) -> Method:
    """Add low-rank task vectors that do not interfere: `base + scale * polar(U) diag(s) polar(V^T)`.

    U, s and V^T hold the largest r / T singular triples of each of the T task vectors of a matrix,
    one network's after another's; singular values of zero have no vectors here, and add nothing. Of leaves
    that are not matrices the mean of the task vectors is added.

    Args:
        scale: how much is added, > 0 (alpha in the paper, 1).
        convs: take kernels of four axes as matrices, too.

    Returns:
        A method for any number of networks; needs `base`. `add_decorrelated` is its formula as a
        pure function, vmap-able over `scale`.

    Raises:
        ValueError: scale is not above 0.

    References:
        Gargiulo, Crisostomi, Bucarelli, Scardapane, Silvestri, Rodola: Task singular vectors:
        reducing task interference in model merging, CVPR 2025, Algorithm 1.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return aligned_result(task, add_decorrelated(task.require_base(), task.models, scale, convs=convs))

    return Method(
        "tsv", run, uses_key=False, max_models=None, assumes_aligned=True, granularity="leaf", needs_base=True
    )


@functools.partial(jax.jit, static_argnames="convs")
def add_decorrelated(base: Params, models: Sequence[Params], scale: Scalar, *, convs: bool = False) -> Params:
    """The formula of `tsv`. Of a matrix of fewer rows or columns than networks each keeps one triple.

    Example:
        >>> base = {"w": jnp.zeros((2, 2))}
        >>> models = [{"w": jnp.array([[3.0, 0.0], [0.0, 0.5]])}, {"w": jnp.array([[0.5, 0.0], [0.0, 1.0]])}]
        >>> add_decorrelated(base, models, 1.0)["w"].round(4).tolist()
        [[3.0, 0.0], [0.0, 1.0]]
    """

    def matrix(deltas: Inexact[Array, "models m n"]) -> Inexact[Array, "m n"]:
        each = max(1, min(deltas.shape[1:]) // len(deltas))
        u, s, vt = thin_svd(deltas)
        # arbitrary vectors would turn those of other networks away from where they are
        counts = significant(s, deltas.shape[1:])
        u, vt = u * counts[:, None], vt * counts[:, :, None]
        left = jnp.concatenate(u[:, :, :each], 1)
        right = vt[:, :each].reshape(-1, vt.shape[-1])
        return polar(left) * s[:, :each].reshape(-1) @ polar(right)

    return add_matrices(matrix, base, models, scale, convs=convs)
