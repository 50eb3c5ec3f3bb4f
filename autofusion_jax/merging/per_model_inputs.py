"""Inputs for networks that were trained on different data."""

from collections.abc import Sequence
from typing import Annotated

from jax import Array

from autofusion_jax.arguments import anything, list_of
from autofusion_jax.merging.checks import Batch, check_batch
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.validation import require

Batches = Annotated[Sequence[Batch], list_of(anything("a batch", "batches"))]
"""Inputs `[N, ...]`, or a pair `(x, y)`, for each network."""


def inputs_of_each(caller: str, task: MergeTask, inputs: Batches | None) -> list[tuple[Array, Array | None]]:
    """The inputs of every network, and its labels if there are any.

    Args:
        caller: the method, for messages.
        task: the networks, and the batch that they share.
        inputs: for each network inputs `[N, ...]` or a pair `(x, y)`; None: the shared batch for all.

    Raises:
        ValueError: there are no inputs, not as many batches as networks, or one is not what the
            networks take.
    """
    if inputs is None:
        return [(task.require_x(), task.y)] * len(task.models)
    num = len(task.models)
    require(len(inputs) == num, caller, "inputs", f"{num} batches, one for each network", len(inputs))
    found = []
    for number, (params, batch) in enumerate(zip(task.models, inputs)):
        name = f"inputs[{number}]"
        x, y = batch if isinstance(batch, tuple) else (batch, None)
        x, y = check_batch(params, task.require_apply_fn(), x, y, caller=caller, name=name)
        if x is None:
            raise ValueError(f"{caller}: {name} must be inputs [N, ...] or a pair (x, y); got None.")
        found.append((x, y))
    return found
