"""Consensus task arithmetic: only what matters to several networks is merged."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import add_merged
from autofusion_jax.types import Params, Scalar
from autofusion_jax.validation import require


@factory
def consensus(*, scale: Positive = 0.3, selectivity: Positive = 0.4, min_networks: Count = 2) -> Method:
    """Add the summed task vectors where several networks need them: `base + scale * m * sum_k delta_k`.

    A network needs an entry (TALL mask) where `|delta_k| >= selectivity * |sum_j delta_j - delta_k|`;
    `m` is 1 where at least `min_networks` networks do.

    Args:
        scale: how much is added, > 0 (alpha in the paper; 0.3 as in task arithmetic).
        selectivity: > 0 (lambda in the paper, chosen there from 0.2 to 0.6 on held-out data): the
            higher, the fewer entries a network needs.
        min_networks: how many networks must need an entry, >= 1 (k in the paper, 2).

    Returns:
        A method for any number of networks; needs `base`. `add_consensus` is its formula as a pure
        function, vmap-able over all three.

    Raises:
        ValueError: an option is out of its range.

    References:
        Wang, Dimitriadis, Ortiz-Jimenez, Fleuret, Frossard: Localizing task information for improved
        model merging and compression, ICML 2024, Eq. 5 and 7.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        require(
            min_networks <= len(task.models), "consensus", "min_networks",
            f"at most {len(task.models)}, the number of networks", min_networks,
        )  # fmt: skip
        params = add_consensus(task.require_base(), task.models, scale, selectivity, min_networks)
        return aligned_result(task, params)

    return Method(
        "consensus",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        granularity="entry",
        needs_base=True,
    )


@jax.jit
def add_consensus(
    base: Params,
    models: Sequence[Params],
    scale: Scalar,
    selectivity: Scalar,
    min_networks: Scalar,
) -> Params:
    """`base + scale * m * sum_k delta_k`, leaf by leaf. See `consensus`.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 9.0])}, {"w": jnp.array([2.0, 1.0])}]
        >>> add_consensus(base, models, 1.0, 0.4, 2)["w"].tolist()
        [3.0, 0.0]
    """

    def merged(deltas: Sequence[Array]) -> Array:
        total = sum(deltas, jnp.zeros_like(deltas[0]))
        needs = [jnp.abs(delta) >= selectivity * jnp.abs(total - delta) for delta in deltas]
        count = sum(need.astype(jnp.int32) for need in needs)
        return scale * jnp.where(count >= min_networks, total, 0)

    return add_merged(merged, base, models)
