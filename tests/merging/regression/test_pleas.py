import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.losses import softmax_cross_entropy_with_integer_labels as cross_entropy
from sklearn.datasets import load_digits

import autofusion_jax as af
from autofusion_jax.merging.regression.linear_layers import LinearLayers
from autofusion_jax.merging.regression.pleas import fit_layers
from autofusion_jax.models.registry import build_model
from autofusion_jax.symmetry.program import flatten_program
from tests.conftest import inputs_for, params_for


def dense(params, h):
    return h @ params["w"] + params["b"]


def per_head(params, h):
    """The weight stands first, heads are a batch axis, what is made lies in the middle."""
    made = jnp.einsum("hdk,nthk->nhdt", params["w"], h.reshape(*h.shape[:-1], 2, -1))
    return made + params["b"][..., None]


def strided(params, h):
    """Channels first, stride, dilation, uneven padding, a bias after a transposition."""
    made = jax.lax.conv_general_dilated(
        h, params["w"], (2, 1), [(1, 0), (2, 1)], rhs_dilation=(1, 2),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
    )  # fmt: skip
    return jnp.transpose(made, (0, 2, 3, 1)) + params["b"]


def transposed(params, h):
    made = jax.lax.conv_transpose(h, params["w"], (2, 2), "SAME")
    return made + params["b"].reshape(1, 1, 1, -1)


def no_bias(params, h):
    """What is added differs from place to place, not from unit to unit: it is no bias."""
    return h @ params["w"].T + params["b"]


LAYERS = {  # the layer, what it reads, its weight, its bias
    "dense": (dense, (5, 6), (6, 4), (4,), True),
    "per_head": (per_head, (3, 6), (2, 5, 3), (2, 5), True),
    "strided": (strided, (3, 7, 6), (4, 3, 3, 2), (4,), True),
    "transposed": (transposed, (4, 3, 2), (3, 3, 2, 4), (4,), True),
    "no_bias": (no_bias, (5, 6), (4, 6), (5, 1), False),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.slow
def test_the_loss_is_stationary(name):
    """The gradient of `E |layer(z) - y|^2`, by autodiff, is zero at the fit; zero also: W read back."""
    layer, shape, weight, bias, fits_bias = LAYERS[name]

    def hidden(params, x):
        return jnp.tanh(x + params["shift"])

    def apply_fn(params, x):
        return jnp.sin(layer(params, hidden(params, x)))

    keys = jax.random.split(jax.random.key(0), 7)
    shapes = {"w": weight, "b": bias, "shift": shape[-1:]}
    a, b = (
        {n: jax.random.normal(keys[i + 2 * j], s) for j, (n, s) in enumerate(shapes.items())} for i in (0, 1)
    )
    x = jax.random.normal(keys[6], (60, *shape))
    spec = af.PermSpec.from_table({n: (None,) * len(s) for n, s in shapes.items()}, a, apply_fn=apply_fn)
    fitted = fit_layers(spec, (a, b), x, 1e-6)
    assert set(fitted) == ({"w", "b"} if fits_bias else {"w"})

    z = (hidden(a, x) + hidden(b, x)) / 2
    y = (layer(a, hidden(a, x)) + layer(b, hidden(b, x))) / 2
    average = {n: (a[n] + b[n]) / 2 for n in ("w", "b")}
    loss = jax.jit(lambda free: jnp.mean((layer({**average, **free}, z) - y) ** 2))
    if not fits_bias:  # left as it is
        y = y - layer({**average, "w": 0 * average["w"]}, z) + average["b"]
    before, after = (jax.grad(loss)({n: p[n] for n in fitted}) for p in (average, {**average, **fitted}))
    for path in fitted:
        assert float(jnp.abs(after[path]).max()) < 2e-3 * float(jnp.abs(before[path]).max())
    assert loss(fitted) < loss({n: average[n] for n in fitted})
    linear = LinearLayers(flatten_program(spec, a, x, caller="test"), a)
    (found,) = linear.layers
    np.testing.assert_array_equal(linear.weight(found, linear.matrices(found, a["w"])), a["w"])


def test_ridge_regression_by_hand(mlp):
    """The second layer of an MLP, in float64, with the ridge as rows of the least squares."""
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 300)
    spec, ridge = mlp.perm_spec, 0.1
    result = af.merge(a, b, spec, x, method="pleas", ridge=ridge)
    networks = [jax.tree.map(np.float64, p["params"]) for p in (a, af.apply_perm(spec, b, result.perms))]
    read = [
        np.maximum(np.reshape(x, (300, -1)) @ p["dense_0"]["kernel"] + p["dense_0"]["bias"], 0)
        for p in networks
    ]
    made = [h @ p["dense_1"]["kernel"] + p["dense_1"]["bias"] for h, p in zip(read, networks)]
    z, y = sum(read) / 2, sum(made) / 2
    start = sum(p["dense_1"]["kernel"] for p in networks) / 2
    centred = z - z.mean(0)
    weight = np.sqrt(ridge * np.mean(centred**2) * len(z))
    rows = np.concatenate([centred, weight * np.eye(12)])
    target = np.concatenate([y - y.mean(0) - centred @ start, np.zeros((12, 10))])
    kernel = start + np.linalg.lstsq(rows, target, rcond=None)[0]
    got = result.params["params"]["dense_1"]
    np.testing.assert_allclose(got["kernel"], kernel, atol=1e-4)
    np.testing.assert_allclose(got["bias"], y.mean(0) - z.mean(0) @ kernel, atol=1e-4)


def test_what_is_not_fitted_is_averaged(mlp):
    a, b, x, spec = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 60), mlp.perm_spec
    result = af.merge(a, b, spec, x, method="pleas")
    fitted, averaged = result.diagnostics["fitted"], result.diagnostics["averaged"]
    assert sorted(averaged) == ["params/dense_0/bias", "params/dense_0/kernel"]
    assert sorted(fitted + averaged) == sorted(leaf.path for leaf in spec.leaves)
    assert result.num_learned == 12 * 10 + 10 + 10 * 3 + 3
    expected = af.fuse(a, b, result.perms, 0.5, spec)["params"]["dense_0"]
    chex.assert_trees_all_close(result.params["params"]["dense_0"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["activation_matching", "weight_matching"])
def test_units_are_matched_by_the_method_of_that_name(mlp, name):
    a, b, x, key = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 60), jax.random.key(5)
    matched = af.merge(a, b, mlp.perm_spec, x, method=name, key=key)
    result = af.merge(a, b, mlp.perm_spec, x, method="pleas", matching=name, key=key)
    chex.assert_trees_all_equal(dict(result.perms), dict(matched.perms))


def test_weights_used_twice_and_products_of_activations_are_left():
    def apply_fn(params, x):
        h = jnp.tanh(x @ params["tied"])
        return jnp.tanh(h @ params["tied"]) @ (h.T @ h) @ params["out"]

    params = {"tied": jnp.eye(4) + 0.1, "out": jnp.ones((4, 2))}
    spec = af.PermSpec.from_table(dict.fromkeys(params, (None, None)), params, apply_fn=apply_fn)
    x = jnp.ones((3, 4))
    found = LinearLayers(flatten_program(spec, params, x, caller="test"), params)
    assert [layer.weight for layer in found.layers] == ["out"]


@pytest.mark.slow
def test_keeps_more_of_two_tasks_than_weight_matching():
    """Digits, 5 + 5 classes, two initialisations: the setting that this is for."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32).reshape(-1, 8, 8), np.asarray(labels)
    model = build_model("mlp", (8, 8), widths=(64, 64), num_classes=10)

    @jax.jit
    def train(params, x, y):
        optimizer = optax.adam(3e-3)

        def step(state, _):
            params, moments = state
            grads = jax.grad(lambda p: cross_entropy(model.apply(p, x), y).mean())(params)
            updates, moments = optimizer.update(grads, moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[0][0]

    train_x, test_x = x[::2], x[1::2]
    accuracies = {"weight_matching": [], "pleas": [], "prune_concat": []}
    for seed in range(3):
        task = np.isin(y[::2], np.random.default_rng(seed).permutation(10)[:5])
        a, b = (
            train(model.init(jax.random.key(2 * seed + i)), train_x[own], y[::2][own])
            for i, own in enumerate((task, ~task))
        )
        for name, found in accuracies.items():
            merged = af.merge(a, b, model.perm_spec, train_x[:500], method=name)
            found.append(float(np.mean(model.apply(merged.params, test_x).argmax(-1) == y[1::2])))
    assert np.mean(accuracies["pleas"]) > np.mean(accuracies["weight_matching"]) + 0.15
    assert np.mean(accuracies["prune_concat"]) > np.mean(accuracies["pleas"])
