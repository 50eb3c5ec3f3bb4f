"""Sinkhorn re-basin: planted permutations, losses, and what it needs."""

import chex
import jax
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for


def planted(model):
    params, spec = params_for(model, 0), model.perm_spec
    perms = af.random_perms(spec, jax.random.key(7))
    return params, af.apply_perm(spec, params, af.invert(spec, perms)), perms


@pytest.mark.parametrize("inputs", [False, True])
def test_weights_alone_find_a_planted_permutation(model, inputs):
    params, copy, perms = planted(model)
    batch = inputs_for(model) if inputs else None
    result = af.merge(params, copy, model.perm_spec, batch, method="sinkhorn_rebasin")
    chex.assert_trees_all_equal(dict(result.perms), perms)
    chex.assert_trees_all_close(result.params, params, atol=1e-6)
    assert result.apply_fn == model.perm_spec.apply_fn
    assert set(result.variants) == {"soft", "hard"} and result.params is result.variants["hard"]


@pytest.mark.parametrize("loss", ["midpoint", "random"])
@pytest.mark.slow
def test_losses_on_data_fall(mlp, loss):
    params_a, params_b = params_for(mlp, 0), params_for(mlp, 1)
    options = {"loss": loss, "steps": 60, "batch_size": 24}
    result = af.merge(
        params_a, params_b, mlp.perm_spec, inputs_for(mlp), method="sinkhorn_rebasin", **options
    )
    curve = result.history["retain"]
    assert curve.shape == (60,)
    assert curve[-10:].mean() < curve[:10].mean()


def test_labels_are_used_where_given(mlp):
    params_a, params_b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp)
    options = {"method": "sinkhorn_rebasin", "loss": "midpoint", "steps": 60, "batch_size": 24}
    labels = np.zeros(len(x), np.int32)
    result = af.merge(params_a, params_b, mlp.perm_spec, x, labels=labels, **options)
    unlabelled = af.merge(params_a, params_b, mlp.perm_spec, x, **options)

    def mean_logit(result):
        return float(jax.nn.log_softmax(mlp.apply(result.variants["soft"], x))[:, 0].mean())

    assert mean_logit(result) > mean_logit(unlabelled)


def test_a_loss_of_outputs_needs_inputs(mlp):
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, None,
                 method="sinkhorn_rebasin", loss="midpoint")  # fmt: skip
