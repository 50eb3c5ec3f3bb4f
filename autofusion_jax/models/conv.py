"""Convolution and pooling, in the form that each backend runs fastest."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "kh kw in out"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv_same(x: Images, kernel: Kernel) -> Float[Array, "batch height width out"]:
    """Convolve with stride 1 and zero padding that keeps the size; odd square kernels.

    On CPU inside compiled loops XLA's own gradients of a convolution are many times slower
    than its forward pass; there the backward pass is written as a forward convolution and one
    matrix product over patches (BUILD_NOTES.md has the measurements).
    """
    return _conv_with_own_gradient(x, kernel) if jax.default_backend() == "cpu" else _conv(x, kernel)


def _conv(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def _conv_with_own_gradient(x: Array, kernel: Array) -> Array:
    return _conv(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = saved
    flipped = jax.lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    patches = _patches(x, kernel.shape[0])
    grad_kernel = patches.T @ cotangent.reshape(-1, cotangent.shape[-1])
    return _conv(cotangent, flipped), grad_kernel.reshape(kernel.shape)


_conv_with_own_gradient.defvjp(_forward, _backward)


def _patches(x: Array, k: int) -> Float[Array, "pixels patch"]:
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    shifts = [padded[:, i : i + height, j : j + width] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifts, axis=-1).reshape(batch * height * width, k * k * channels)


def max_pool(x: Images) -> Float[Array, "batch halfheight halfwidth channels"]:
    """Take the maximum of 2 x 2 pixels, stride 2; an odd last row or column is left out.

    Written as the maximum of strided slices, whose gradient is faster and smaller than that
    of `reduce_window`.
    """
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])
