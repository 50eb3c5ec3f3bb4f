"""Three and more networks by a method for two: one after another (AutoFusion, appendix B.4)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import wide
from autofusion_jax.trees import is_float
from autofusion_jax.types import Params
from autofusion_jax.validation import require


def takes_all(method: Method, task: MergeTask) -> bool:
    """Whether a method takes so many networks at once."""
    return method.max_models is None or len(task.models) <= method.max_models


def merge_networks(method: Method, task: MergeTask, key: Key[Array, ""]) -> MergeResult:
    """Merge all networks at once where the method can, else one after another."""
    return method.run(task, key) if takes_all(method, task) else merge_in_sequence(method, task, key)


def merge_in_sequence(method: Method, task: MergeTask, key: Key[Array, ""]) -> MergeResult:
    """Merge the first two networks, then the result with the third, and so on.

    Args:
        method: a method for two networks.
        task: all the networks.
        key: random key; split among the steps.

    Returns:
        The last merge, its alignments and weights extended to all networks. `history`, `perms`
        and `variants` are those of the last step; `diagnostics["steps"]` holds those of all, and
        `num_learned` is the sum.

    Raises:
        ValueError: the method's result is not one network that can be merged again.
    """
    # what is merged leaf by leaf is rounded once, after the last step; others run or move whole networks
    by_leaf = method.granularity != "network"
    merged, *others = map(_wide_floats, task.models) if by_leaf else task.models
    alignments: tuple = ()
    weights: tuple[float, ...] = (1.0,)
    steps, learned = [], 0
    result = None
    for other, step_key in zip(others, jax.random.split(key, len(others))):
        result = method.run(dataclasses.replace(task, models=(merged, other)), step_key)
        require(
            len(result.alignments) == 2,
            "merge",
            "models",
            f"two networks for {method.name}",
            len(task.models),
        )
        first, second = result.alignments
        alignments = (*(alignments or (first,)), second)
        weights = (*(weight * result.weights[0] for weight in weights), result.weights[1])
        merged, learned = result.params, learned + result.num_learned
        steps.append(dict(result.diagnostics))
    assert result is not None
    return dataclasses.replace(
        result,
        params=jax.tree.map(_in_dtype_of, task.models[0], result.params) if by_leaf else result.params,
        alignments=alignments,
        weights=weights,
        diagnostics={"steps": steps},
        num_learned=learned,
    )


def _wide_floats(params: Params) -> Params:
    return jax.tree.map(lambda leaf: wide(leaf) if is_float(leaf) else leaf, params)


def _in_dtype_of(first: Any, merged: Any) -> Any:
    return merged.astype(jnp.result_type(first)) if is_float(first) else merged
