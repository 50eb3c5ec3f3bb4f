import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import autofusion_jax as af
from autofusion_jax.evaluation.activation_maps import (
    activation_after,
    activation_maps,
    grad_cam,
    gradient_x_input,
    has_places,
)
from autofusion_jax.models.registry import build_model
from autofusion_jax.symmetry.program import flatten_program
from tests.conftest import inputs_for, params_for

CLASSES = jnp.array([0, 1, 2, 2])


def site_of(spec, name):
    return next(site for site in spec.sites if site.name == name)


def normalised_cam(features, gradients, size):
    """Grad-CAM in numpy; brought to the inputs' size by another library."""
    maps = np.maximum((gradients.mean((1, 2), keepdims=True) * features).sum(-1), 0).astype(np.float32)
    return np.stack([np.asarray(Image.fromarray(m).resize(size, Image.Resampling.BILINEAR)) for m in maps])


def bare(params, x):
    """A convolution, ReLU, 2 x 2 max pooling, a dense head; a bare function."""
    x = jax.lax.conv_general_dilated(
        x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params["bias"])
    x = jnp.max(x.reshape(len(x), 3, 2, 3, 2, -1), (2, 4))
    return x.reshape(len(x), -1) @ params["head"]


def bare_params():
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 4), "bias": (4,), "head": (36, 3)}
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def bare_by_hand(params, x, classes):
    """Feature maps after ReLU, and the logit's gradient there, by loops in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    features = np.zeros((len(x), 6, 6, 4))
    for i in range(6):
        for j in range(6):
            patch = x[:, i : i + 3, j : j + 3]
            features[:, i, j] = np.maximum(np.einsum("nabc,abck->nk", patch, p["conv"]) + p["bias"], 0)
    gradients = np.zeros_like(features)
    for n, c in enumerate(classes):
        kernel = p["head"][:, c].reshape(3, 3, 4)
        for i, j, k in np.ndindex(3, 3, 4):
            window = features[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k]
            best = window == window.max()
            gradients[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k] = kernel[i, j, k] * best / best.sum()
    return features, gradients


def test_grad_cam_of_a_bare_function_by_hand():
    params, x = bare_params(), jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    spec = af.infer_perm_spec(bare, params, x[:2])
    maps, kind = activation_maps(spec, params, x, CLASSES, site=site_of(spec, "conv.pre"))
    features, gradients = bare_by_hand(params, x, CLASSES)
    assert kind == "grad_cam" and maps.shape == (4, 6, 6)
    np.testing.assert_allclose(maps, normalised_cam(features, gradients, (6, 6)), atol=1e-5)


def test_grad_cam_of_linen_vgg():
    """The head reads the last feature map, so the gradient there is the head's own kernel."""
    model = build_model("vgg", (8, 8, 2), widths=(4, 6), pool_after=(0,), num_classes=3)
    params, x = params_for(model, 0), inputs_for(model, 4)
    spec = model.perm_spec
    maps = grad_cam(spec, params, x, CLASSES, site=site_of(spec, "conv_1/kernel.pre"))
    features = np.asarray(model.features(params, x)).reshape(4, 4, 4, 6)
    kernel = np.asarray(params["params"]["head"]["kernel"]).reshape(4, 4, 6, 3)
    gradients = np.moveaxis(kernel[..., CLASSES], -1, 0)
    np.testing.assert_allclose(maps, normalised_cam(features, gradients, (8, 8)), atol=1e-5)


@pytest.mark.parametrize("name", ["read", "pre"])
def test_grad_cam_of_a_resnet_with_batch_norm(name):
    """Flax runs the rest of the network from a replaced input of the second convolution of a block."""
    model = build_model("resnet", (8, 8, 2), widths=(4, 6), depths=(1, 1), num_classes=3)
    params, x = params_for(model, 0), inputs_for(model, 4)

    def run(value, seen):  # flax's own forward pass
        def interceptor(next_fun, args, kwargs, context):
            if context.module.name == "conv_1" and context.module.path[-2] == "stage1_block0":
                seen.append(args[0])
                args = args if value is None else (value,)
            return next_fun(*args, **kwargs)

        with nn.intercept_methods(interceptor):
            return model.module.apply(params, x)

    @jax.jit
    def by_flax():
        seen = []
        run(None, seen)

        def score(value):
            return jnp.take_along_axis(run(value, []), CLASSES[:, None], 1).sum()

        return seen[0], jax.grad(score)(seen[0])

    features, gradients = (np.asarray(value) for value in by_flax())
    spec = model.perm_spec
    site = {"read": "stage1_block0/conv_1/kernel.read", "pre": "stage1_block0/conv_0/kernel.pre"}[name]
    maps = grad_cam(spec, params, x, CLASSES, site=site_of(spec, site))
    assert float(maps.max()) > 0
    expected = normalised_cam(features, gradients, (8, 8))
    np.testing.assert_allclose(maps, expected, atol=1e-5 * float(maps.max()) + 1e-6)


def test_dense_layers_fall_back_to_gradient_x_input():
    """Of a linear network: the weight of each pixel times the pixel."""
    model = build_model("mlp", (4, 4, 1), widths=(12, 10), num_classes=3)
    params, x = params_for(model, 0), inputs_for(model, 4)
    spec = model.perm_spec
    maps, kind = activation_maps(spec, params, x, CLASSES, site=site_of(spec, "dense_1/kernel.pre"))
    assert kind == "gradient_x_input" and maps.shape == (4, 4, 4)
    layers = [params["params"][name] for name in ("dense_0", "dense_1", "head")]
    value, slopes = np.asarray(x).reshape(4, -1), []
    for layer in layers[:2]:
        value = value @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        slopes.append(value > 0)
        value = np.maximum(value, 0)
    for n, c in enumerate(CLASSES):
        gradient = np.asarray(layers[2]["kernel"])[:, c]
        for layer, slope in zip(layers[1::-1], slopes[::-1]):
            gradient = np.asarray(layer["kernel"]) @ (slope[n] * gradient)
        expected = np.maximum(gradient.reshape(4, 4) * np.asarray(x)[n, ..., 0], 0)
        np.testing.assert_allclose(maps[n], expected, atol=1e-5)


def test_relative_maps_do_not_change_when_all_logits_fall():
    """Both kinds of map, against a network whose head was moved by hand."""
    params, x = bare_params(), jax.random.normal(jax.random.key(0), (4, 6, 6, 2))
    spec = af.infer_perm_spec(bare, params, x[:2])
    site = site_of(spec, "conv.pre")
    moved = {**params, "head": params["head"] - 3.0}
    centred = {**params, "head": params["head"] - params["head"].mean(1, keepdims=True)}
    found, after = (grad_cam(spec, p, x, CLASSES, site=site, relative=True) for p in (params, moved))
    np.testing.assert_allclose(found, after, atol=1e-4)
    np.testing.assert_allclose(found, grad_cam(spec, centred, x, CLASSES, site=site), atol=1e-4)
    plain, lower = (gradient_x_input(bare, p, x, CLASSES, relative=True) for p in (params, moved))
    np.testing.assert_allclose(plain, lower, atol=1e-3)
    assert not np.allclose(gradient_x_input(bare, moved, x, CLASSES), lower, atol=1e-1)


@pytest.mark.parametrize(
    ("function", "follows"),
    [
        (jax.nn.relu, True),
        (jax.nn.gelu, True),
        (jax.nn.silu, True),
        (jax.nn.leaky_relu, True),
        (lambda z: z, False),
        (lambda z: z + jax.nn.relu(z), True),
        (lambda z: jnp.concatenate([z, jax.nn.relu(z)], -1)[..., :3], False),  # both are read
    ],
)
def test_what_follows_a_pre_activation(function, follows):
    def apply_fn(params, x):
        return function(x @ params["up"]) @ params["down"]

    params, x = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}, jnp.array([[1.0, -3.0]])
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    program = flatten_program(spec, params, x, caller="test")
    number = next(n for n, equation in program.maker.items() if equation.name == "dot_general")
    after = activation_after(program, number)
    assert (after != number) == follows
    if follows:
        values = {program.leaves["up"]: params["up"], program.inputs[0]: x}
        (value,) = program.evaluate([after], values)
        np.testing.assert_allclose(value, function(x @ params["up"]), atol=1e-6)


def test_bad_input(vgg, mlp):
    params, x, spec = params_for(vgg, 0), inputs_for(vgg, 4), vgg.perm_spec
    site = site_of(spec, "conv_0/kernel.pre")
    flat = site_of(spec, "head/kernel.read")
    assert has_places(spec, site, x) and not has_places(spec, flat, x)
    with pytest.raises(ValueError, match="site must be one with places as in x .* Use gradient_x_input"):
        grad_cam(spec, params, x, CLASSES, site=flat)
    with pytest.raises(ValueError, match=r"classes must be \[4\] in \[0, 3\); got \[4\], 0 to 3"):
        grad_cam(spec, params, x, jnp.array([0, 1, 2, 3]), site=site)
    with pytest.raises(ValueError, match="must be a network with logits"):
        gradient_x_input(lambda p, v: v, params, x, CLASSES)
    bare_spec = dataclasses.replace(spec, apply_fn=None)
    for call in (grad_cam, activation_maps):
        with pytest.raises(ValueError, match="spec must be one that carries an apply_fn"):
            call(bare_spec, params, x, CLASSES, site=site)


def test_sites_in_loops_are_refused():
    def apply_fn(params, x):
        def step(x, kernel):
            return jax.nn.relu(x @ kernel), None

        tokens = x.reshape(len(x), -1, 3) @ params["in"]
        return jax.lax.scan(step, tokens, params["layers"])[0].mean(1) @ params["head"]

    params = {"in": jnp.ones((3, 4)), "layers": jnp.ones((2, 4, 4)), "head": jnp.ones((4, 2))}
    x = jnp.ones((2, 5, 5, 3))
    spec = af.infer_perm_spec(apply_fn, params, x)
    inside = [site for site in spec.sites if len(site.path) > 1 and has_places(spec, site, x)]
    with pytest.raises(ValueError, match="site must be outside of loops"):
        grad_cam(spec, params, x, jnp.array([0, 1]), site=inside[0])
