"""Constants that a function closes over: the runs of equal entries along their axes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.symmetry.labels import Factors, Label, concatenate, fixed_axis, resolve

MAX_CONSTANT = 1 << 22
"""Constants with more entries are not searched for structure."""

MAX_RUNS = 9
"""Axes with more runs of equal entries than this are fixed."""


def constant_axes(constant: Any) -> tuple[list[Factors], list[Factors]]:
    """The axes of a constant, fixed except as far as its entries are equal, and their separate runs."""
    dtype = getattr(constant, "dtype", np.dtype(float))
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return [fixed_axis(n, "a random key") for n in constant.shape], []
    array = np.asarray(constant)
    found = [_constant_axis(array, axis) for axis in range(array.ndim)]
    return [axis for axis, _ in found], [run for _, runs in found for run in runs]


def _constant_axis(array: np.ndarray, axis: int) -> tuple[Factors, list[Factors]]:
    size, reason = array.shape[axis], "a constant that varies along it"
    if size <= 1 or array.size == 0:
        return [size], []
    if array.size > MAX_CONSTANT:
        return fixed_axis(size, reason), []
    count, runs = repetition(array, axis)
    if len(set(runs)) == 1:
        return resolve([count, *fixed_axis(len(runs), reason), runs[0]]), []
    if len(runs) > MAX_RUNS:
        return resolve([count, *fixed_axis(sum(runs), reason)]), []
    parts: list[Factors] = [[Label(run)] for run in runs]
    return resolve([count, *concatenate(parts)]), parts


def repetition(array: np.ndarray, axis: int) -> tuple[int, list[int]]:
    """Along an axis: how often a pattern repeats, and its runs of equal entries.

    Example:
        >>> repetition(np.array([1, 1, 2, 2, 2, 1, 1, 2, 2, 2]), 0)
        (2, [2, 3])
    """
    size = array.shape[axis]
    rows = np.moveaxis(array, axis, 0).reshape(size, -1)
    divisors = (d for d in range(1, size) if size % d == 0)
    period = next((d for d in divisors if (rows[d:] == rows[:-d]).all()), size)
    changes = (1 + np.flatnonzero((rows[1:period] != rows[: period - 1]).any(1))).tolist()
    return size // period, [stop - start for start, stop in zip([0, *changes], [*changes, period])]
