"""Every kind of bad input to `merge` is one clear error."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for


def with_leaf(params, layer, leaf, value):
    return {"params": {**params["params"], layer: {**params["params"][layer], leaf: value}}}


@pytest.fixture
def good(mlp):
    return params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp)


def test_shapes_between_models(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "dense_1", "bias", jnp.zeros(11))
    with pytest.raises(
        ValueError, match=r"merge: params_b\['params/dense_1/bias'\] must be float32\[10\].*\[11\]"
    ):
        af.merge(a, wrong, spec, x)


def test_missing_leaf(good):
    a, b, spec, x = good
    del b["params"]["dense_0"]["bias"]
    with pytest.raises(ValueError, match=r"params_b\['params/dense_0/bias'\] .* got nothing"):
        af.merge(a, b, spec, x)


def test_another_spec(good, vgg):
    a, b, _, x = good
    with pytest.raises(ValueError, match=r"params_a\['params/conv_0/kernel'\] .* params_a has no such leaf"):
        af.merge(a, b, vgg.perm_spec, x)


def test_dtypes(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "head", "bias", jnp.zeros(3, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"must be float32\[3\] .* got bfloat16\[3\]"):
        af.merge(a, wrong, spec, x)


def test_nan_in_params(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "head", "bias", jnp.array([0.0, jnp.nan, 0.0]))
    with pytest.raises(ValueError, match=r"params_b\['params/head/bias'\] must be finite; got 1 NaN"):
        af.merge(a, wrong, spec, x)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (jnp.zeros((0, 4, 4)), "batch must be a batch of one or more inputs"),
        (
            jnp.zeros((24, 3, 3)),
            r"batch must be inputs \[N, ...\] that apply_fn takes; got shape \[24, 3, 3\]",
        ),
        (jnp.zeros((16, 1)).reshape(4, 4), r"got shape \[4, 4\]"),
        (jnp.full((5, 4, 4), jnp.nan), r"batch\['x'\] must be finite"),
        (None, "needs inputs"),
        ((jnp.zeros((5, 4, 4)), np.array([0, 1, 2, 3, 0])), r"labels .* must be in \[0, 3\), .* got 0 to 3"),
        ((jnp.zeros((5, 4, 4)), np.array([0, 1])), r"labels .* must be integers of shape \[5\]"),
        ((jnp.zeros((5, 4, 4)), np.zeros(5)), r"labels .* got float64\[5\]"),
    ],
)
def test_batches(good, batch, message):
    a, b, spec, _ = good
    with pytest.raises(ValueError, match=message):
        af.merge(a, b, spec, batch)


def test_no_apply_fn(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="perm_spec must carry an apply_fn"):
        af.merge(a, b, dataclasses.replace(spec, apply_fn=None), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "autofusion: tau must be > 0; got 0.0"),
        ({"num_iters": 0}, "num_iters must be >= 1; got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"gamma": "normal"}, r"gamma must be in \[0, 1\], \"uniform\", or \"learned\""),
        ({"zeta": 1.0}, r"zeta must be in \[0, 1\)"),
        ({"strategy": "normalised"}, "unknown strategy 'normalised'. Did you mean 'normalized'"),
        ({"layer_weighting": "quadratic"}, "unknown layer_weighting"),
        ({"preset": "papers"}, "unknown preset 'papers'. Did you mean 'paper'"),
        ({"taus": 1.0}, "unknown option 'taus'. Did you mean 'tau'"),
    ],
)
def test_options(good, options, message):
    a, b, spec, x = good
    with pytest.raises(ValueError, match=message):
        af.merge(a, b, spec, x, **options)


def test_methods(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="unknown method 'autofussion'. Did you mean 'autofusion'"):
        af.merge(a, b, spec, x, method="autofussion")
    with pytest.raises(ValueError, match="unknown option 'sweeps'"):
        af.merge(a, b, spec, x, method="weight_matching", sweeps=3)
    with pytest.raises(ValueError, match="options must be given to the method itself"):
        af.merge(a, b, spec, x, method=af.methods.interpolation(), gamma=0.3)
    with pytest.raises(ValueError, match=r"interpolation: gamma must be in \[0, 1\]"):
        af.merge(a, b, spec, None, method="interpolation", gamma=-0.1)
    with pytest.raises(ValueError, match="two or more networks"):
        af.merge_many([a], spec, x)


def test_a_spec_without_groups():
    spec = af.PermSpec.from_table(
        {"w": (None, None)}, {"w": jnp.ones((3, 2))}, apply_fn=lambda p, x: x @ p["w"]
    )
    with pytest.raises(ValueError, match="autofusion: perm_spec must be a spec with groups to permute"):
        af.merge({"w": jnp.ones((3, 2))}, {"w": jnp.ones((3, 2))}, spec, jnp.ones((4, 3)))


def test_fuse_refuses_gamma_outside(good):
    a, b, spec, _ = good
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\]"):
        af.fuse(a, b, af.identity_perms(spec), 1.01, spec)


def test_zeta_that_keeps_nothing_warns_and_stays_finite(good):
    a, b, spec, x = good
    with pytest.warns(UserWarning, match=r"zeta=0.999999 keeps 0.0% of the inputs"):
        result = af.merge(a, b, spec, x, zeta=0.999999, epochs=2, pseudo_labels="confidence", gamma=0.5)
    assert np.all(result.history["retain"] == 0) and np.all(result.history["kept"] == 0)
    assert all(np.isfinite(v).all() for v in result.params["params"]["head"].values())


def test_one_trusted_sample_does_not_warn(good):
    a, b, spec, x = good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = af.merge(a, b, spec, x[:1], zeta=0.0, epochs=1)
    assert result.diagnostics["kept"] == 1.0


@pytest.mark.parametrize("method", ["autofusion", "best"])
def test_a_network_with_several_outputs_has_no_pseudo_labels(mlp, method):
    def two_outputs(params, x):
        logits = mlp.apply(params, x)
        return logits, logits

    models, x = (params_for(mlp, 0), params_for(mlp, 1)), inputs_for(mlp)
    spec = af.infer_perm_spec(two_outputs, models[0], x)
    with pytest.raises(
        ValueError, match=f"{method}: the networks' outputs must be one array of logits; got a tuple"
    ):
        af.merge(*models, spec, x, method=method)
