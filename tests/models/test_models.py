import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.conv import _conv_with_own_gradient, conv_same, max_pool
from autofusion_jax.models.registry import MODELS, build_model
from tests.conftest import MODELS as SMALL
from tests.conftest import inputs_for, params_for

GROUPS = {"mlp": {"dense_0": 12, "dense_1": 10}, "vgg": {"conv_0": 4, "conv_1": 6}}


def test_every_model_is_tested():
    assert set(SMALL) == set(GROUPS) == set(MODELS)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_and_invariance(name):
    model = SMALL[name]
    assert {n: g.size for n, g in model.perm_spec.groups.items()} == GROUPS[name]
    assert af.check_perm_spec(model.perm_spec, params_for(model, 0), inputs_for(model)) < 1e-5


def test_the_head_reads_the_features(model):
    params, x = params_for(model, 0), inputs_for(model)
    head = params["params"]["head"]
    expected = model.features(params, x) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(params, x), expected, atol=1e-5)
    replaced = model.with_head(params, jnp.zeros_like(head["kernel"]), jnp.ones_like(head["bias"]))
    np.testing.assert_allclose(model.apply(replaced, x), 1.0)


def test_the_vgg_flattens_more_than_one_pixel(vgg):
    assert "in 16 x conv_1:6" in str(vgg.perm_spec)


def test_unknown_model():
    with pytest.raises(ValueError, match="unknown model 'vg'. Did you mean 'vgg'"):
        build_model("vg", (3,), num_classes=2)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_own_gradient_equals_the_libraries(k):
    x = jax.random.normal(jax.random.key(0), (3, 7, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (k, k, 4, 5))

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loss(fn):
        return lambda x, kernel: jnp.sum(jnp.sin(fn(x, kernel)))

    np.testing.assert_allclose(conv_same(x, kernel), reference(x, kernel), rtol=1e-5, atol=1e-5)
    got = jax.grad(loss(_conv_with_own_gradient), argnums=(0, 1))(x, kernel)
    expected = jax.grad(loss(reference), argnums=(0, 1))(x, kernel)
    for g, e in zip(got, expected):
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [4, 7])
def test_max_pool(size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    np.testing.assert_array_equal(max_pool(x), expected)
