"""MagMax: of all task vectors' entries the one of largest magnitude."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import Positive
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import weighted_sum
from autofusion_jax.types import Params


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
def add_largest(base: Params, models: Sequence[Params], scale: float | Float[Array, ""]) -> Params:
    """`base + scale * delta` with the delta of largest magnitude; of two alike, the first network's.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, -3.0])}, {"w": jnp.array([-1.0, 2.0])}]
        >>> add_largest(base, models, 0.5)["w"].tolist()
        [0.5, -1.5]
    """

    def leaf(*values: Array) -> Array:
        *tuned, origin = values

        def larger(first: Array, second: Array) -> Array:
            # by quarters, of which no difference overflows
            sizes = [jnp.abs(value / 4 - origin / 4) for value in (first, second)]
            return jnp.where(sizes[1] > sizes[0], second, first)

        largest = functools.reduce(larger, tuned)
        # base + (value - base) is not that value to the last bit
        return kept(scale == 1, largest, weighted_sum([scale, 1 - scale], [largest, origin]))

    return merge_leaves(leaf, [*models, base])
