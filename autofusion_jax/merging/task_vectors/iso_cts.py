"""Iso-CTS: singular vectors of the summed task vector and of single networks, all counting alike."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.arguments import Positive, Share
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.svd import add_matrices, polar, significant
from autofusion_jax.precision import length
from autofusion_jax.types import Params, Scalar


@factory
def iso_cts(*, common: Share = 0.8, scale: Positive = 1.0, convs: bool = False) -> Method:
    """Add common and task-specific directions, all of one size: `base + scale * mean(s) U V^T`.

    Of the r singular triples of a kernel `[in, out]`, c are the largest of the summed task vector.
    The rest is shared out to the networks: the largest ones of what lies outside of the common
    space of outputs, `delta_k - delta_k V_c V_c^T`. U and V are the polar factors of all of them,
    s their singular values, of which only those above zero count. Of leaves that are not matrices the mean
    of the task vectors is added.

    Args:
        common: share of directions that are common, in [0, 1] (k / r in the paper, 0.8). As much
            more or less as it takes to give all networks as many.
        scale: how much is added, > 0 (alpha in the paper, chosen there on held-out data).
        convs: take kernels of four axes as matrices, too.

    Returns:
        A method for any number of networks; needs `base`. `add_common_and_specific` is its formula
        as a pure function, vmap-able over `scale`.

    Raises:
        ValueError: an option is out of its range.

    References:
        Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de Weijer: No task left behind:
        isotropic model merging with common and task-specific subspaces, ICML 2025, Algorithm 2.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        params = add_common_and_specific(task.require_base(), task.models, scale, common=common, convs=convs)
        return aligned_result(task, params)

    return Method(
        "iso_cts",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="leaf",
        needs_base=True,
    )


@functools.partial(jax.jit, static_argnames=("common", "convs"))
def add_common_and_specific(
    base: Params, models: Sequence[Params], scale: Scalar, *, common: float = 0.8, convs: bool = False
) -> Params:
    """The formula of `iso_cts`.

    Example:
        >>> base = {"w": jnp.zeros((2, 2))}
        >>> models = [{"w": jnp.array([[3.0, 0.0], [0.0, 0.0]])}, {"w": jnp.array([[0.0, 0.0], [0.0, 1.0]])}]
        >>> add_common_and_specific(base, models, 1.0, common=0.5)["w"].round(4).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    def matrix(deltas: Inexact[Array, "models m n"]) -> Inexact[Array, "m n"]:
        num, rank = len(deltas), min(deltas.shape[1:])
        each = min(round((rank - int(rank * common)) / num), rank // num)
        sizes = [length(jnp.abs(delta)) for delta in deltas]
        shared = _largest(deltas.sum(0), rank - num * each, sum(sizes) / rank**0.5)
        outside = deltas - deltas @ shared[2].conj().T @ shared[2]
        parts = [*(_largest(delta, each, size) for delta, size in zip(outside, sizes)), shared]
        u, s, vt = (jnp.concatenate(part, axis) for part, axis in zip(zip(*parts), (1, 0, 0)))
        return jnp.mean(s, where=(s > 0) | ~(s > 0).any()) * polar(u) @ polar(vt)

    return add_matrices(matrix, base, models, scale, convs=convs)


def _largest(matrix: Inexact[Array, "m n"], num: int, scale: Array) -> tuple[Array, Array, Array]:
    """The `num` largest singular values, with vectors on their left `[m, num]` and right `[num, n]`.

    Those that are rounding errors next to the scale of what the matrix was made of are zero, vectors too.
    """
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    counts = significant(s, matrix.shape, scale)
    return (u * counts)[:, :num], (s * counts)[:num], (vt * counts[:, None])[:num]
