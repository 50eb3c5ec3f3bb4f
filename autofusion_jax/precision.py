"""Precision: the dtype in which networks are added up, one rounding at the end, and sums of any size."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Inexact, Num


def wide_dtype(*dtypes: DTypeLike) -> np.dtype:
    """The real dtype in which numbers of these dtypes are computed: float32, or float64 if one is that wide.

    Example:
        >>> wide_dtype(jnp.bfloat16, jnp.float8_e4m3fn), wide_dtype(np.complex128)
        (dtype('float32'), dtype('float64'))
    """
    # a complex number of 16 bytes is two floats of 8; all that is narrower fits float32
    sizes = [
        np.dtype(d).itemsize // (2 if jnp.issubdtype(d, jnp.complexfloating) else 1)
        for d in dtypes
        if jnp.issubdtype(d, jnp.inexact)
    ]
    return np.dtype(np.float64 if max(sizes, default=4) > 4 else np.float32)


def wide_inexact(dtype: DTypeLike) -> np.dtype:
    """The same for one dtype, but complex for a complex one.

    Example:
        >>> wide_inexact(jnp.float16), wide_inexact(np.complex64)
        (dtype('float32'), dtype('complex64'))
    """
    wide = wide_dtype(dtype)
    return np.promote_types(wide, np.complex64) if jnp.issubdtype(dtype, jnp.complexfloating) else wide


def is_complex(leaf: Any) -> bool:
    """Whether a leaf holds complex numbers, of which `widened` makes two parts each."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def widened(values: Num[Array | np.ndarray, "..."]) -> Array:
    """Floats in the wide dtype; complex numbers `[...]` as their parts `[..., 2]`; all others as they are.

    Real and imaginary parts are two numbers of the network: lengths, cosines and means of the parts are
    those of the complex numbers, and signs and thresholds have a meaning for them.

    Example:
        >>> widened(jnp.array([1 + 2j])).tolist()
        [[1.0, 2.0]]
    """
    dtype = jnp.result_type(values)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.stack([jnp.real(values), jnp.imag(values)], -1)
    return jnp.asarray(values, wide_dtype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else None)


def rounded(values: Float[Array, "..."], dtype: DTypeLike) -> Inexact[Array, "..."]:
    """What `widened` made of leaves of this dtype, and what was computed of it, in that dtype again.

    Example:
        >>> rounded(jnp.array([[1.0, 2.0]]), jnp.complex64).tolist()
        [(1+2j)]
    """
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.lax.complex(values[..., 0], values[..., 1]).astype(dtype)
    return values.astype(dtype)


def power_of_two(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """The largest power of two that is no larger than a magnitude, and is not the largest of all; 1 for 0.

    To divide and multiply by it rounds nothing, so what is computed relative to it is the same at every
    scale; its derivative is 0.

    Example:
        >>> power_of_two(jnp.array([0.75, -5.0, 0.0])).tolist()
        [0.5, 4.0, 1.0]
    """
    # the exponent's bits alone: exp2 and log2 round, and a denormal number has no such bits
    integers = np.dtype(f"u{values.dtype.itemsize}")
    exponent = integers.type(np.array(np.inf, values.dtype).view(integers))
    power = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(values, integers) & exponent, values.dtype
    )
    # 1 / 2^127 is a denormal number, which compilers make zero: such a power is taken for the next smaller
    return jnp.where(power > 0, jnp.minimum(power, 1 / jnp.finfo(values.dtype).tiny), 1)


def scale_of(
    values: Float[Array, "... n"], axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False
) -> Float[Array, "..."]:
    """The power of two of the largest magnitude along axes, all if None; 1 where there is none or it is 0."""
    return power_of_two(jnp.max(jnp.abs(values), axis, keepdims=keepdims, initial=0))


def length(values: Float[Array, "... n"], axis: int | tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """The Euclidean length along axes, all if None, of values of any size: no square over- or underflows.

    Example:
        >>> print(length(jnp.array([3e-30, 4e-30])), length(jnp.array([3e30, 4e30])))
        5e-30 5e+30
    """
    scale = scale_of(values, axis, keepdims=True)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(values / scale), axis))


def cosine(left: Float[Array, "*shape"], right: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The cosine of the angle between two arrays of any size; 0 if one of them is 0.

    Example:
        >>> print(cosine(jnp.array([1e-30, 0.0]), jnp.array([3e38, 3e38])).round(4))
        0.7071
    """
    left, right = left / scale_of(left), right / scale_of(right)
    lengths = jnp.sqrt(jnp.sum(left**2)) * jnp.sqrt(jnp.sum(right**2))
    return jnp.clip(jnp.sum(left * right) / jnp.where(lengths > 0, lengths, 1), -1, 1)


def headroom(*values: Float[Array, "..."]) -> Float[Array, ""]:
    """What to divide arrays by, so that differences of two of their entries do not overflow: 1 or 4.

    Example:
        >>> print(headroom(jnp.array([1.0])), headroom(jnp.array([-3e38]), jnp.array([1.0])))
        1.0 4.0
    """
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(value), initial=0) for value in values]))
    return jnp.where(largest > jnp.finfo(largest.dtype).max / 4, 4, 1).astype(largest.dtype)


def weighted_sum(
    weights: Sequence[Float[Array, ""]] | Float[Array, " n"],
    values: Sequence[Float[Array, "*shape"]] | Float[Array, "n *shape"],
) -> Float[Array, "*shape"]:
    """`sum_k weights[k] * values[k]`, which overflows only if the sum itself does, not a part of it.

    Example:
        >>> print(weighted_sum(jnp.array([2.0, -1.0]), [jnp.array([3e38]), jnp.array([3e38])]))
        [3.e+38]
    """
    # weights whose magnitudes add up to less than one keep every part of the sum below the largest value
    room = 2 * power_of_two(jnp.sum(jnp.stack([jnp.abs(weight) for weight in weights]), 0))
    return room * functools.reduce(jnp.add, [weight / room * value for weight, value in zip(weights, values)])


def wide(values: Num[Array | np.ndarray, "..."]) -> Array:
    """Numbers in a dtype in which they can be added up: the wide one, complex where they are complex.

    Example:
        >>> wide(jnp.ones(2, jnp.bfloat16)).dtype, wide(jnp.ones(2, jnp.complex64)).dtype
        (dtype('float32'), dtype('complex64'))
    """
    return jnp.asarray(values, wide_inexact(jnp.result_type(values)))


def is_64_bit(leaf: Any) -> bool:
    """Tell whether a leaf is of floats or complex numbers that JAX narrows unless 64 bits are allowed."""
    return getattr(leaf, "dtype", None) in (np.float64, np.complex128)


def needs_64_bits(leaves: Iterable[Any]) -> bool:
    """Tell whether leaves hold 64-bit floats, which JAX would narrow as it is set."""
    return jnp.result_type(float) != np.float64 and any(map(is_64_bit, leaves))
