"""WUDI-Merging: the task vector that disturbs no network's, by gradient descent and without data."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.svd import add_matrices
from autofusion_jax.precision import length, scale_of
from autofusion_jax.types import Params, Scalar

SMALLEST = 2.0**-12
"""Task vectors whose largest entry is below are taken for larger ones, as the learning rate is meant for."""

EPS = 1e-8
"""Adam's, as the learning rate for task vectors of ordinary size."""


@factory
def wudi(
    *, scale: Positive = 1.0, num_steps: Count = 300, learning_rate: Positive = 1e-5, convs: bool = False
) -> Method:
    """Add the matrix that disturbs least: `min_delta sum_k |delta_k^T (delta - delta_k)|^2 / |delta_k|^2`.

    The task vector of a kernel `[in, out]` spans the inputs that the network saw, so what is left of
    `delta - delta_k` on it measures how much the outputs are disturbed. Adam, from `sum_k delta_k`.
    Of leaves that are not matrices the mean of the task vectors is added. A matrix that no network
    changed stays as it is. Task vectors whose largest entry is below 2^-12 are brought to that size for it:
    a step of Adam is as long however small they are.

    Args:
        scale: how much is added, > 0 (1 in the paper).
        num_steps: steps of Adam, >= 1 (300 in the paper).
        learning_rate: of Adam, > 0 (1e-5 in the paper).
        convs: take kernels of four axes as matrices, too.

    Returns:
        A method for any number of networks; needs `base`. `add_undisturbed` is its formula as a
        pure function, vmap-able over `scale` and `learning_rate`.

    Raises:
        ValueError: an option is out of its range.

    References:
        Cheng, Xiong, Wei, Zhu, Yuan: Whoever started the interference should end it: guiding
        data-free model merging via task vectors, ICML 2025.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        params = add_undisturbed(
            task.require_base(), task.models, scale, learning_rate, num_steps=num_steps, convs=convs
        )
        return aligned_result(task, params)

    return Method(
        "wudi",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="leaf",
        needs_base=True,
    )


@functools.partial(jax.jit, static_argnames=("num_steps", "convs"))
def add_undisturbed(
    base: Params,
    models: Sequence[Params],
    scale: Scalar,
    learning_rate: Scalar,
    *,
    num_steps: int = 300,
    convs: bool = False,
) -> Params:
    """The formula of `wudi`. The loss is quadratic in delta: its gradient is `2 (A delta - B)`.

    Example:
        >>> base, models = {"w": jnp.zeros((2, 1))}, [{"w": jnp.array([[1.0], [0.0]])}] * 2
        >>> add_undisturbed(base, models, 1.0, 0.1, num_steps=200)["w"].round(2).tolist()
        [[1.0], [0.0]]
    """

    def matrix(deltas: Inexact[Array, "models m n"]) -> Inexact[Array, "m n"]:
        # in units of the largest entry, in which no square under- or overflows
        scale = scale_of(jnp.abs(deltas))
        deltas = deltas / scale
        ordinary = jnp.maximum(scale, SMALLEST)
        adam = optax.adam(learning_rate / ordinary, eps=jnp.maximum(EPS / ordinary, 1e-30))
        norms = jnp.square(jnp.abs(deltas)).sum((1, 2))
        unit = deltas / jnp.sqrt(jnp.where(norms == 0, 1, norms))[:, None, None]
        # what is rounding and what is a gradient is told apart below as full precision rounds
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        curvature = product("kmi,kni->mn", unit, unit.conj())
        target = product("kmi,kni,knj->mj", unit, unit.conj(), deltas)
        # Adam makes steps of a gradient of rounding errors that are as long as those of any other; an entry's
        # are as large as what its row and its column are made of, whatever the size of the matrix
        rows, columns = length(jnp.abs(unit), (0, 2)), length(jnp.abs(deltas), (0, 1))
        rounding = 4 * jnp.finfo(norms.dtype).eps * rows[:, None] * columns

        def step(_: Array, state: tuple) -> tuple:
            merged, moments = state
            gradient = 2 * (product("mn,nj->mj", curvature, merged) - target)
            gradient = jnp.where(jnp.abs(gradient) > rounding, gradient, 0)
            updates, moments = adam.update(gradient, moments)
            return optax.apply_updates(merged, updates), moments

        start = deltas.sum(0)
        return scale * jax.lax.fori_loop(0, num_steps, step, (start, adam.init(start)))[0]

    return add_matrices(matrix, base, models, scale, convs=convs)
