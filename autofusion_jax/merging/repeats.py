"""Repeats: the same networks merged once for every random key."""

import dataclasses

from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.gradients import explained
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.sequence import merge_networks, takes_all


def merge_for_keys(method: Method, task: MergeTask, keys: Key[Array, " repeats"]) -> list[MergeResult]:
    """Merge once for every key: at one go where the method can, else one after another.

    Args:
        method: what merges; one that uses no key runs once, and its result stands for all.
        task: the networks.
        keys: random keys.

    Returns:
        One result for every key.
    """
    with explained(method.name):
        if not method.uses_key:
            return [merge_networks(method, task, keys[0])] * len(keys)
        if method.run_repeats is not None and takes_all(method, task):
            return list(method.run_repeats(task, keys))
        tasks = [_counted(task, number, len(keys)) for number in range(len(keys))]
        return [merge_networks(method, *each) for each in zip(tasks, keys)]


def _counted(task: MergeTask, number: int, num: int) -> MergeTask:
    """The task of one repeat, whose progress counts as a part of the whole."""
    report = task.on_progress
    if report is None:
        return task

    def on_progress(done: int, total: int) -> None:
        report(number * total + done, num * total)

    return dataclasses.replace(task, on_progress=on_progress)
