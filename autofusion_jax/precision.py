"""Precision: the dtype in which networks are added up, one rounding at the end, and lengths of any size."""

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
        return (values[..., 0] + 1j * values[..., 1]).astype(dtype)
    return values.astype(dtype)


def length(values: Float[Array, "... n"], axis: int | tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """The Euclidean length along axes, all if None, of values of any size: no square over- or underflows.

    Example:
        >>> print(length(jnp.array([3e-30, 4e-30])), length(jnp.array([3e30, 4e30])))
        5e-30 5e+30
    """
    if values.size == 0:
        return jnp.sum(jnp.abs(values), axis)
    # relative to the largest entry the squares lie in [0, 1]; 1 for a vector of zeros, whose length is 0
    largest = jnp.max(jnp.abs(values), axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return jnp.squeeze(scale, axis) * jnp.sqrt(jnp.sum(jnp.square(values / scale), axis))


def wide(values: Num[Array | np.ndarray, "..."]) -> Array:
    """Numbers in a dtype in which they can be added up: the wide one, complex where they are complex.

    Example:
        >>> wide(jnp.ones(2, jnp.bfloat16)).dtype, wide(jnp.ones(2, jnp.complex64)).dtype
        (dtype('float32'), dtype('complex64'))
    """
    dtype = jnp.result_type(values)
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return jnp.asarray(values, jnp.result_type(wide_dtype(dtype), jnp.complex64) if is_complex else wide_dtype(dtype))


def power_of_two(values: Num[Array, "..."]) -> Float[Array, ""]:
    """The power of two next below the largest size of any value, 1 if all are 0: the unit of such values.

    Dividing by it loses no bit, and squares of what is left do not overflow, nor underflow where they count.

    Example:
        >>> print(power_of_two(jnp.array([3e-30, -5e-30])) / 2**-98, power_of_two(jnp.zeros(2)))
        1.0 1.0
    """
    largest = jnp.max(jnp.abs(wide(values)), initial=0)
    _, exponent = jnp.frexp(largest)
    info = jnp.finfo(largest.dtype)
    exponent = jnp.clip(exponent - 1, info.minexp, info.maxexp - 1)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones((), largest.dtype), exponent), 1)
