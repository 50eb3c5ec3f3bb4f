"""MagMax: of all task vectors' entries the one of largest magnitude."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.arguments import Positive
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import deltas_of
from autofusion_jax.types import Params, Scalar


@factory
def magmax(*, scale: Positive = 1.0) -> Method:
    """Add the largest change of every entry: `base + scale * delta_k`, `k = argmax_k |delta_k|` by entry.

    Args:
        scale: how much of it is added, > 0 (lambda in the paper, chosen on held-out data there).

    Returns:
        A method for any number of networks; needs `base`. `add_largest` is its formula as a pure
        function, vmap-able over `scale`.

    Raises:
        ValueError: scale is not above 0.

    References:
        Marczak, Twardowski, Trzcinski, Cygert: MagMax: leveraging model merging for seamless
        continual learning, ECCV 2024.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return aligned_result(task, add_largest(task.require_base(), task.models, scale))

    return Method(
        "magmax",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="entry",
        needs_base=True,
    )


@jax.jit
def add_largest(base: Params, models: Sequence[Params], scale: Scalar) -> Params:
    """`base + scale * delta` with the delta of largest magnitude; of two alike, the first network's.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, -3.0])}, {"w": jnp.array([-1.0, 2.0])}]
        >>> add_largest(base, models, 0.5)["w"].tolist()
        [0.5, -1.5]
    """

    def larger(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        wins = jnp.abs(second[0]) > jnp.abs(first[0])
        return jnp.where(wins, second[0], first[0]), jnp.where(wins, second[1], first[1])

    def leaf(origin: Array, *values: Array) -> Array:
        room, deltas = deltas_of(origin, values)
        delta, value = functools.reduce(larger, zip(deltas, values))
        # base + (value - base) is not the value to the last bit
        whole = jnp.broadcast_to(jnp.asarray(scale) == 1, value.shape)
        return kept(whole, value, (origin * room + scale * delta) / room)

    return merge_leaves(leaf, [base, *models])
