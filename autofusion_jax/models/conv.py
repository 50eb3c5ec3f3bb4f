"""Convolution and pooling, in the form that each backend runs fastest."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "kh kw in out"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

MAX_PATCHES = 2**23
"""Numbers in the patches of a batch above which they are made in chunks, which stay in the cache."""

CHUNK = 16
"""Images in a chunk."""


def conv_same(x: Images, kernel: Kernel, *, stride: int = 1) -> Float[Array, "batch outheight outwidth out"]:
    """Convolve with zero padding `k // 2` on all sides; odd square kernels.

    Stride 1 keeps the size; stride s keeps every s-th row and column of that. On CPU inside
    compiled loops XLA's own gradients of a convolution are many times slower than its forward
    pass; there the backward pass is written as a forward convolution and matrix products over
    patches (docs/performance.md has the measurements).
    """
    on_cpu = jax.default_backend() == "cpu"
    return _conv_with_own_gradient(x, kernel, stride) if on_cpu else _conv(x, kernel, stride)


def _conv(x: Array, kernel: Array, stride: int) -> Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=_DIMENSIONS
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_with_own_gradient(x: Array, kernel: Array, stride: int) -> Array:
    return _conv(x, kernel, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    grad_x = _conv(_spread(cotangent, stride, x.shape), flipped, 1)
    chunk = _chunk_size(x, kernel.shape[0], stride)

    def grad_kernel(x: Array, cotangent: Array) -> Array:
        return _patches(x, kernel.shape[0], stride).T @ cotangent.reshape(-1, cotangent.shape[-1])

    if chunk == len(x):
        return grad_x, grad_kernel(x, cotangent).reshape(kernel.shape)
    chunks = jax.tree.map(lambda v: v.reshape(-1, chunk, *v.shape[1:]), (x, cotangent))
    zero = jnp.zeros((kernel[..., 0].size, kernel.shape[3]), kernel.dtype)
    total, _ = jax.lax.scan(lambda total, chunk: (total + grad_kernel(*chunk), None), zero, chunks)
    return grad_x, total.reshape(kernel.shape)


_conv_with_own_gradient.defvjp(_forward, _backward)


def _spread(cotangent: Array, stride: int, shape: tuple[int, ...]) -> Array:
    """Put the outputs of a strided convolution back at their places among zeros."""
    if stride == 1:
        return cotangent
    rows, columns = (
        (0, size - (out - 1) * stride - 1, stride - 1) for size, out in zip(shape[1:3], cotangent.shape[1:3])
    )
    return jax.lax.pad(cotangent, jnp.zeros((), cotangent.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))


def _chunk_size(x: Array, k: int, stride: int) -> int:
    """The number of images whose patches are held at once: all if they are few, else up to `CHUNK`."""
    batch, height, width, channels = x.shape
    patches = batch * (height // stride) * (width // stride) * k * k * channels
    return batch if patches <= MAX_PATCHES else math.gcd(batch, CHUNK)


def _patches(x: Array, k: int, stride: int) -> Float[Array, "pixels patch"]:
    height, width, channels = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    shifts = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifts, axis=-1).reshape(-1, k * k * channels)


def max_pool(x: Images, *, size: int = 2) -> Float[Array, "batch halfheight halfwidth channels"]:
    """Take the maximum of `size` x `size` pixels, stride 2.

    Size 2 leaves out an odd last row or column; size 3 has one row and column of padding on each
    side, which are never the maximum. Written as the maximum of strided slices, whose gradient is
    faster and smaller than that of `reduce_window`.
    """
    pad = (size - 1) // 2
    if pad:
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=-jnp.inf)
    height, width = ((length - size) // 2 + 1 for length in x.shape[1:3])
    rows = functools.reduce(jnp.maximum, [x[:, i : i + 2 * height - 1 : 2] for i in range(size)])
    return functools.reduce(jnp.maximum, [rows[:, :, i : i + 2 * width - 1 : 2] for i in range(size)])
