import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.regression.heads import best_scale, fit_head
from autofusion_jax.merging.regression.linear_layers import LinearLayers
from autofusion_jax.models.registry import build_model
from autofusion_jax.symmetry.program import flatten_program
from tests.conftest import inputs_for, params_for


def test_a_head_by_hand(mlp):
    """Ridge regression in float64; the scale from 60 heads, each fitted without one of the inputs."""
    params, x, spec, ridge = params_for(mlp, 0), inputs_for(mlp, 60), mlp.perm_spec, 0.1
    labels = np.eye(3)[np.random.default_rng(0).integers(3, size=60)]
    linear = LinearLayers(flatten_program(spec, params, x[:2], caller="test"), params)
    got = fit_head(spec, linear, params, x, jnp.asarray(labels), ridge)

    read = np.asarray(af.capture_sites(spec, params, x)["head/kernel.read"], np.float64)
    penalty = ridge * np.mean((read - read.mean(0)) ** 2) * 60

    def fit(rows):
        z, t = read[rows], labels[rows] - 1 / 3
        centred = z - z.mean(0)
        kernel = np.linalg.solve(centred.T @ centred + penalty * np.eye(10), centred.T @ (t - t.mean(0)))
        return kernel, t.mean(0) - z.mean(0) @ kernel

    def left_out(i):
        kernel, bias = fit(np.arange(60) != i)
        return read[i] @ kernel + bias

    kernel, bias = fit(slice(None))
    scale = best_scale(np.stack([left_out(i) for i in range(60)]), labels)
    np.testing.assert_allclose(got["params/head/kernel"], scale * kernel, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(got["params/head/bias"], scale * bias, rtol=2e-3, atol=1e-4)


def test_the_scale_has_the_smallest_cross_entropy():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 4)), np.eye(4)[rng.integers(4, size=50)]
    logits += labels
    scales = np.geomspace(0.1, 10, 2001)
    losses = [-np.mean(np.sum(labels * jax.nn.log_softmax(s * logits), -1)) for s in scales]
    np.testing.assert_allclose(best_scale(logits, labels), scales[np.argmin(losses)], rtol=5e-3)


def linear_head(params, h):
    return h @ params["out"] + params["b"]


HEADS = {  # what follows the hidden units, and whether it is a head that labels can be fitted to
    "bias": (linear_head, True),
    "no_bias": (lambda params, h: h @ params["out"], True),
    "no_leaf": (lambda params, h: h @ params["out"] + params["b"].sum(), False),
    "weight_first": (lambda params, h: (params["out"].T @ h.T).T, True),
    "log_probs": (lambda params, h: jax.nn.log_softmax(linear_head(params, h)), False),
    "two_outputs": (lambda params, h: (linear_head(params, h), h), False),
    "two_biases": (lambda params, h: linear_head(params, h) + params["b"], False),
    "by_place": (lambda params, h: linear_head(params, jnp.stack([h, h], 1)), False),
}


@pytest.mark.parametrize("name", HEADS)
def test_which_layer_is_the_head(name):
    head, found = HEADS[name]

    def apply_fn(params, x):
        return head(params, jnp.tanh(x @ params["up"]))

    params = {"up": jnp.ones((4, 6)), "out": jnp.ones((6, 3)), "b": jnp.ones(3)}
    table = {name: (None,) * leaf.ndim for name, leaf in params.items()}
    spec = af.PermSpec.from_table(table, params, apply_fn=apply_fn)
    linear = LinearLayers(flatten_program(spec, params, jnp.ones((2, 4)), caller="test"), params)
    assert (linear.head is not None) == found
    if linear.head is not None:
        assert linear.head.weight == "out"


def test_cosines_are_no_head():
    model = build_model("mlp", (4, 4), widths=(6,), num_classes=3, head="cosine", embed_dim=8)
    params, x = params_for(model, 0), inputs_for(model, 4)
    assert LinearLayers(flatten_program(model.perm_spec, params, x, caller="test"), params).head is None


@pytest.mark.slow
def test_pleas_with_labels_changes_the_head_alone(mlp):
    models, x, spec = [params_for(mlp, seed) for seed in (0, 1)], inputs_for(mlp, 60), mlp.perm_spec
    y = np.random.default_rng(0).integers(3, size=60)
    plain, ignored = (af.merge(*models, spec, x, labels=labels, method="pleas") for labels in (None, y))
    chex.assert_trees_all_equal(plain.params, ignored.params)
    assert plain.diagnostics["head"] == "mean"
    result = af.merge(*models, spec, x, labels=y, method="pleas", pseudo_labels="confidence")
    assert result.diagnostics["head"] == "labels"
    assert result.num_learned == plain.num_learned
    linear = LinearLayers(flatten_program(spec, plain.params, x[:2], caller="test"), plain.params)
    head = fit_head(spec, linear, plain.params, x, jax.nn.one_hot(y, 3), 1e-2)
    expected = {
        **plain.params["params"],
        "head": {name: head[f"params/head/{name}"] for name in ("kernel", "bias")},
    }
    chex.assert_trees_all_close(result.params["params"], expected, atol=1e-5)
    taught = af.merge(*models, spec, x, method="pleas", pseudo_labels="confidence")
    assert taught.diagnostics["head"] == "confidence"
    without_sites = dataclasses.replace(spec, sites=())
    em, z = (af.merge(*models, without_sites, x, method="pleas", pseudo_labels=name) for name in ("em", "z"))
    assert em.diagnostics["head"] == z.diagnostics["head"] == "z"
    chex.assert_trees_all_equal(em.params, z.params)
    with pytest.raises(ValueError, match="pleas: unknown pseudo_labels 'confident'"):
        af.methods.pleas(pseudo_labels="confident")


@pytest.mark.slow
def test_real_labels_take_the_place_of_the_teachers(mlp):
    models, x, spec = [params_for(mlp, seed) for seed in (0, 1)], inputs_for(mlp, 60), mlp.perm_spec
    probs = jnp.stack([jax.nn.softmax(mlp.apply(params, x)) for params in models])
    surest = jnp.take_along_axis(probs, probs.max(-1).argmax(0)[None, :, None], 0)[0].argmax(-1)
    taught = af.merge(*models, spec, x, method="prune_concat", pseudo_labels="confidence")
    labelled = af.merge(*models, spec, x, labels=surest, method="prune_concat")
    chex.assert_trees_all_equal(taught.params, labelled.params)
    assert (taught.diagnostics["head"], labelled.diagnostics["head"]) == ("confidence", "labels")
