"""Shared type aliases. Shapes are written in each signature with jaxtyping."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from jax import Array
from jaxtyping import Num

Params: TypeAlias = Any
"""A pytree of arrays: everything `apply_fn` needs beside the inputs."""

ApplyFn: TypeAlias = Callable[[Params, Array], Any]
"""A pure function `apply_fn(params, x) -> outputs`."""

TrainFn: TypeAlias = Callable[[Params, Array], tuple[Array, Params]]
"""A network in training mode: `train_fn(params, x) -> (logits, params)` with updated statistics."""

InputShape: TypeAlias = Any
"""The shape of one input, a tuple of ints; a dict of them where a network takes a dict of arrays."""

Perms: TypeAlias = Mapping[str, Array]
"""Hard permutations by group: integers `[n]`, or `[outer, inner]` for a nested group."""

SoftPerms: TypeAlias = Mapping[str, Array]
"""Relaxed permutations by group: floats `[n, n]`, or `[outer, inner, inner]` if nested."""

Scalar: TypeAlias = int | float | np.number | Num[Array, ""]
"""A number in a formula: of Python, of numpy, or traced."""
