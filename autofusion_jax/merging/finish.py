"""The last steps of every merge: the first network's own leaves, tied leaves, and a look for NaN."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.merging.checks import network_names
from autofusion_jax.merging.corrections.apply import Correction, corrected
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.tied import Tie, tied
from autofusion_jax.programs import jit_by_network
from autofusion_jax.trees import all_finite, flatten_by_path, is_float, unflatten_like
from autofusion_jax.types import ApplyFn, Params

FEW = 8
"""Inputs on which a merged network that is another program is tried."""

CHUNK = 256
"""Inputs that a network is run on at once in search of outputs that are not finite."""


def map_networks(result: MergeResult, fn: Callable[[Params], Params]) -> MergeResult:
    """Apply a function to the merged parameters and to all variants; what was one object stays one."""
    made = {id(params): fn(params) for params in (result.params, *result.variants.values())}
    variants = {name: made[id(params)] for name, params in result.variants.items()}
    return dataclasses.replace(result, params=made[id(result.params)], variants=variants)


def finished(
    name: str, task: MergeTask, result: MergeResult, ties: Sequence[Tie], correction: Correction | None
) -> MergeResult:
    """Tie leaves, correct, and see that all is finite.

    Args:
        name: the method, for messages.
        task: what was merged.
        result: what the method made of it.
        ties: leaves that repeat others in all networks.
        correction: as in `merge`.

    Raises:
        ValueError: the merged network is not finite, or the correction does not fit it.
    """
    result = map_networks(result, lambda params: with_ties(task.models[0], params, ties))
    if correction is not None:  # after the ties: statistics of twins differ where they stand
        result = corrected(task.require_perm_spec(), task.models, result, task.require_x(), correction)
    check_result(name, task, result)
    return result


def as_given(result: MergeResult, task: MergeTask, first: Params, network: ApplyFn | None) -> MergeResult:
    """A merged network as the networks were given: with their function, and all leaves that are no floats.

    One that is another program stays as it is: what are no numbers is in its function.

    Args:
        result: the merge of the numbers.
        task: what was merged.
        first: the first network, whole.
        network: the networks' function, which takes whole ones.
    """
    if result.apply_fn != task.apply_fn or not is_one_of(task.models[0], result.params):
        return result
    result = map_networks(result, lambda params: with_own_leaves(first, params))
    return dataclasses.replace(result, apply_fn=network)


def is_one_of(first: Params, params: Params) -> bool:
    """Tell whether parameters have the structure and shapes of a network."""
    leaves, others = jax.tree.leaves(first), jax.tree.leaves(params)
    return jax.tree.structure(first) == jax.tree.structure(params) and all(
        np.shape(leaf) == np.shape(other) for leaf, other in zip(leaves, others)
    )


def with_own_leaves(first: Params, params: Params) -> Params:
    """The first network with the floats of a merged one: all its other leaves are the very objects."""
    merged = flatten_by_path(params)
    own = {path: merged[path] if is_float(leaf) else leaf for path, leaf in flatten_by_path(first).items()}
    return unflatten_like(first, own)


def with_ties(first: Params, params: Params, ties: Sequence[Tie]) -> Params:
    """A merged network in which leaves that repeat others in all networks repeat them still."""
    if not ties or not is_one_of(first, params):
        return params
    return unflatten_like(params, flatten_by_path(params) | tied(params, ties))


@contextlib.contextmanager
def networks_to_blame(task: MergeTask) -> Iterator[None]:
    """If a merge fails although the networks' own outputs are not finite, say that instead."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        check_outputs(task, cause=error)
        raise


def check_outputs(task: MergeTask, cause: Exception | None = None) -> None:
    """Raise ValueError naming the first network whose outputs on the inputs, if any, are not finite."""
    if task.apply_fn is None or task.x is None:
        return
    for name, params in network_names(task.models, task.base).items():
        if not _runs_finite(task.apply_fn, params, task.x):
            raise ValueError(
                f"merge: the outputs of {name} on batch must be finite; got NaN or infinite values. This "
                "network overflows by itself: give it in float32, or other inputs."
            ) from cause


def _runs_finite(apply_fn: ApplyFn, params: Params, x: jax.Array) -> bool:
    parts = (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))
    return all(bool(_finite_outputs(apply_fn, params, part)) for part in parts)


@jit_by_network()
def _finite_outputs(apply_fn: ApplyFn, params: Params, x: jax.Array) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(apply_fn(params, x)) if is_float(leaf)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves] or [jnp.array(True)]))


def check_result(name: str, task: MergeTask, result: MergeResult) -> None:
    """Raise ValueError if a merged network is not finite: which leaf of which variant, and why.

    Of one that is another program, the outputs on the first few inputs are looked at instead.

    Args:
        name: the method.
        task: what was merged.
        result: the merged network.
    """
    if result.apply_fn is not None and result.apply_fn != task.apply_fn:
        if task.x is None or _runs_finite(result.apply_fn, result.params, task.x[:FEW]):
            return
        check_outputs(task)
        raise ValueError(
            f"{name}: the outputs of the merged network must be finite; got NaN or infinite values, though "
            "those of the networks are finite. Give float32 networks, or other options."
        )
    networks = {"params": result.params} | {f"variants[{key!r}]": p for key, p in result.variants.items()}
    for place, params in networks.items():
        if not all_finite(params):
            check_outputs(task)
            raise ValueError(_what_overflows(name, place, params))


def _what_overflows(name: str, place: str, params: Params) -> str:
    path, values = next(
        (path, np.asarray(leaf)) for path, leaf in flatten_by_path(params).items() if not all_finite(leaf)
    )
    largest = float(jnp.finfo(values.dtype).max)
    bad = values.size - int(np.isfinite(values).sum())
    why = (
        f"exceeds {values.dtype}'s largest number, {largest:.5g},"
        if np.isinf(values).any()
        else "is undefined"
    )
    wider = "" if values.dtype.itemsize >= np.dtype(np.float32).itemsize else "float32 networks, "
    return (
        f"{name}: {place}[{path!r}] of the merged network must be finite; the result {why} in {bad} of "
        f"{values.size} entries, though the networks are finite. Give {wider}a smaller scale or numbers."
    )
