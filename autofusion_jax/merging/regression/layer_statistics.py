"""Products of an activation and a weight, dense or convolutional, as matrix products.

`[S, B, C] x [B, C, F] -> [S, B, F]`: S samples (images, places), B independent products (heads),
C numbers read (for a convolution, those of a patch), F made.
"""

import abc
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Inexact, Shaped


class Product(abc.ABC):
    """One equation that multiplies an activation by a weight; equal by value, so that programs can be shared.

    Attributes:
        live: which operand is the activation.
        activation_shape: its shape.
        weight_shape: the shape of the other.
        made_shape: the shape of what is made.
        made_dtype: its dtype.
        order: the weight's axes: those of B, C and F.
        splits: how many of them are B's, and how many B's and C's.
    """

    order: tuple[int, ...]
    splits: tuple[int, int]

    def __init__(self, eqn: Any, live: int, *names: str) -> None:
        """See an equation as a product; `names` are those of its parameters that tell it from others."""
        self.live = live
        self.activation_shape, self.weight_shape = (eqn.invars[i].aval.shape for i in (live, 1 - live))
        self.made_shape, self.made_dtype = eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype
        self._params = {name: eqn.params[name] for name in names}
        shapes = (self.activation_shape, self.weight_shape, self.made_shape, self.made_dtype)
        self._key = (type(self), live, *shapes, *self._params.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @abc.abstractmethod
    def read(self, activation: Array) -> Inexact[Array, "S B C"]:
        """What the equation reads of an activation."""

    @abc.abstractmethod
    def made(self, value: Array) -> Inexact[Array, "S B F"]:
        """What the equation makes, in the order of what it reads."""

    @abc.abstractmethod
    def constant(self, made: Shaped[np.ndarray, "B F"]) -> np.ndarray:
        """What the equation makes if it makes the same of every sample."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, C and F."""
        shape = [self.weight_shape[axis] for axis in self.order]
        first, second = self.splits
        return math.prod(shape[:first]), math.prod(shape[first:second]), math.prod(shape[second:])

    @property
    @abc.abstractmethod
    def num_samples(self) -> int:
        """S, in the program that was traced."""

    def matrices(self, weight: Array) -> Inexact[Array, "B C F"]:
        """The weight as matrices."""
        return jnp.transpose(weight, self.order).reshape(self.sizes)

    def weight(self, matrices: Inexact[Array, "B C F"]) -> Array:
        """Undo `matrices`."""
        shape = [self.weight_shape[axis] for axis in self.order]
        return jnp.transpose(matrices.reshape(shape), [self.order.index(axis) for axis in range(len(shape))])


class DenseProduct(Product):
    """A `dot_general`."""

    def __init__(self, eqn: Any, live: int) -> None:
        super().__init__(eqn, live, "dimension_numbers")
        contract, batch = (tuple(map(tuple, pair)) for pair in self._params["dimension_numbers"])
        taken = (*batch[1 - live], *contract[1 - live])
        self.order = (*taken, *_others(len(self.weight_shape), taken))
        self.splits = (len(batch[live]), len(taken))
        self._read = (*batch[live], *contract[live])
        self._samples = _others(len(self.activation_shape), self._read)

    @property
    def num_samples(self) -> int:
        """All places of the activation along its free axes."""
        return math.prod(self.activation_shape[axis] for axis in self._samples)

    def read(self, activation: Array) -> Inexact[Array, "S B C"]:
        """The activation with what is contracted last."""
        shape = [activation.shape[axis] for axis in self._read]
        sizes = math.prod(shape[: self.splits[0]]), math.prod(shape[self.splits[0] :])
        return jnp.transpose(activation, (*self._samples, *self._read)).reshape(-1, *sizes)

    def made(self, value: Array) -> Inexact[Array, "S B F"]:
        """The value with the axes of the samples first, then those of B, then those of F."""
        batch, samples = self.splits[0], len(self._samples)
        free = value.ndim - batch - samples
        counts = (batch, samples, free) if self.live == 0 else (batch, free, samples)
        stops = itertools.accumulate(counts, initial=0)
        first, *others = (range(*ends) for ends in itertools.pairwise(stops))
        between, last = others if self.live == 0 else others[::-1]
        count, _, made = self.sizes
        return jnp.transpose(value, (*between, *first, *last)).reshape(-1, count, made)

    def constant(self, made: Shaped[np.ndarray, "B F"]) -> np.ndarray:
        """The axes of B come first, then those of the operands in their order."""
        first, second = self.splits
        shape = [self.weight_shape[axis] for axis in self.order]
        batch, free = shape[:first], shape[second:]
        samples = [self.activation_shape[axis] for axis in self._samples]
        ones = [1] * len(samples)
        spread = (*batch, *ones, *free) if self.live == 0 else (*batch, *free, *ones)
        whole = (*batch, *samples, *free) if self.live == 0 else (*batch, *free, *samples)
        return np.broadcast_to(made.reshape(spread), whole)


class Convolution(Product):
    """A `conv_general_dilated` of an activation (first) with a kernel, without groups."""

    def __init__(self, eqn: Any, live: int) -> None:
        names = ("dimension_numbers", "window_strides", "padding", "lhs_dilation", "rhs_dilation")
        super().__init__(eqn, live, *names)
        kernel = self._params["dimension_numbers"].rhs_spec  # (out, in, *places)
        self.order = (*kernel[2:], kernel[1], kernel[0])
        self.splits = (0, len(kernel) - 1)

    @property
    def num_samples(self) -> int:
        """All places of all images that are made."""
        images, _, *places = self._params["dimension_numbers"].out_spec
        return math.prod(self.made_shape[axis] for axis in (images, *places))

    def read(self, activation: Array) -> Inexact[Array, "S B C"]:
        """The patches: for every place of the kernel a shifted copy, padded and strided."""
        params, numbers = self._params, self._params["dimension_numbers"]
        batch, channels, *places = numbers.lhs_spec
        value = jnp.transpose(activation, (batch, *places, channels))
        padding = [
            (low, high, step - 1) for (low, high), step in zip(params["padding"], params["lhs_dilation"])
        ]
        value = jax.lax.pad(value, jnp.zeros((), value.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
        sizes = [self.weight_shape[axis] for axis in numbers.rhs_spec[2:]]
        strides, steps = params["window_strides"], params["rhs_dilation"]
        made = [self.made_shape[axis] for axis in numbers.out_spec[2:]]
        patches = []
        for offset in np.ndindex(*sizes):
            start = [o * step for o, step in zip(offset, steps)]
            stop = [s + (count - 1) * stride + 1 for s, count, stride in zip(start, made, strides)]
            limits = (value.shape[0], *stop, value.shape[-1])
            patches.append(jax.lax.slice(value, (0, *start, 0), limits, (1, *strides, 1)))
        stacked = jnp.stack(patches, axis=-2)  # [images, *places, kernel places, channels]
        return stacked.reshape(-1, 1, stacked.shape[-2] * stacked.shape[-1])

    def made(self, value: Array) -> Inexact[Array, "S B F"]:
        """The features of all places."""
        images, features, *places = self._params["dimension_numbers"].out_spec
        return jnp.transpose(value, (images, *places, features)).reshape(-1, 1, value.shape[features])

    def constant(self, made: Shaped[np.ndarray, "B F"]) -> np.ndarray:
        """The same at every place of every image."""
        axis = self._params["dimension_numbers"].out_spec[1]
        shape = [1] * len(self.made_shape)
        shape[axis] = made.size
        return np.broadcast_to(made.reshape(shape), self.made_shape)


def product(eqn: Any, live: int) -> Product | None:
    """See an equation as a product; None if it is no such one.

    Args:
        eqn: an equation of a jaxpr.
        live: which operand is the activation.
    """
    if eqn.primitive.name == "dot_general":
        return DenseProduct(eqn, live)
    if eqn.primitive.name != "conv_general_dilated" or live != 0:
        return None
    plain = eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1
    return Convolution(eqn, live) if plain else None


def _others(count: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(count) if axis not in axes)
