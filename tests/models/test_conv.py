"""Convolutions with gradients of their own, and pooling, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.models import conv
from autofusion_jax.models.conv import _conv_with_own_gradient, conv_same, max_pool


@pytest.mark.parametrize(
    ("k", "stride", "max_patches"),
    [*((k, s, conv.MAX_PATCHES) for k, s in [(1, 1), (3, 1), (5, 1), (3, 2), (1, 2), (7, 2)]), (3, 2, 0)],
)
def test_own_gradient_equals_the_libraries(k, stride, max_patches, monkeypatch):
    monkeypatch.setattr(conv, "MAX_PATCHES", max_patches)
    x = jax.random.normal(jax.random.key(0), (32, 7, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (k, k, 4, 5))

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(k // 2, k // 2)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def own(x, kernel):
        return _conv_with_own_gradient(x, kernel, stride)

    def loss(fn):
        return lambda x, kernel: jnp.sum(jnp.sin(fn(x, kernel)))

    np.testing.assert_allclose(
        conv_same(x, kernel, stride=stride), reference(x, kernel), rtol=1e-5, atol=1e-5
    )
    got = jax.grad(loss(own), argnums=(0, 1))(x, kernel)
    expected = jax.grad(loss(reference), argnums=(0, 1))(x, kernel)
    for g, e in zip(got, expected):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.slow
def test_max_pool(size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(max_pool(x), expected)
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)
    np.testing.assert_array_equal(max_pool(x, size=3), expected)
