"""Distillation: one step by hand, and what is trained and what is not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.corrections.reset_norm import reset_norm
from autofusion_jax.merging.distillation import (
    DistilOptions,
    InTraining,
    distil,
    distil_network,
    training_network,
)
from autofusion_jax.models.registry import build_model
from tests.conftest import inputs_for, params_for

KEY = jax.random.key(0)


def targets(num=24, classes=3):
    return jax.nn.softmax(jax.random.normal(jax.random.key(9), (num, classes)))


def affine(params, x):
    return x @ params["w"] + params["b"]


def test_one_step_of_adam_by_hand():
    """One batch of all inputs: Adam's first step is `-rate * g / (|g| + eps)`, g = x^T (softmax - p) / N."""
    x, p = np.asarray(jax.random.normal(KEY, (6, 4))), np.asarray(targets(6))
    params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3), "count": jnp.array(7)}
    options = DistilOptions(epochs=1, learning_rate=0.1)
    got, losses = distil(affine, params, jnp.asarray(x), jnp.asarray(p), options, key=KEY)
    logits = x @ np.ones((4, 3))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(losses, [-(p * log_probs).sum(-1).mean()], rtol=1e-5)
    error = (np.exp(log_probs) - p) / 6
    for name, grad in (("w", x.T @ error), ("b", error.sum(0))):
        expected = np.asarray(params[name]) - 0.1 * grad / (np.abs(grad) + 1e-8)
        np.testing.assert_allclose(got[name], expected, atol=1e-4)
    assert got["count"] == 7


def test_the_loss_falls_and_the_same_bits_come_twice(model):
    params, x, p = params_for(model, 0), inputs_for(model), targets()
    options = DistilOptions(epochs=8, learning_rate=1e-2, batch_size=9)
    runs = [distil_network(model.perm_spec, params, x, p, options, key=KEY) for _ in range(2)]
    chex.assert_trees_all_equal(*runs)
    chex.assert_trees_all_equal_shapes_and_dtypes(runs[0][0], params)
    losses = runs[0][1]
    assert losses.shape == (8,) and losses[-1] < losses[0]


def test_frozen_leaves_stay(mlp):
    params = params_for(mlp, 0)
    got, _ = distil(
        mlp.apply, params, inputs_for(mlp), targets(), DistilOptions(2), key=KEY,
        frozen=["params/dense_0/kernel"],
    )  # fmt: skip
    same = jax.tree.map(lambda new, old: bool((new == old).all()), got, params)["params"]
    assert same["dense_0"] == {"kernel": True, "bias": False} and not same["head"]["kernel"]


def test_equal_runs_share_one_trace(mlp):
    traced = []

    def network(params, x):
        traced.append(x.shape)
        return mlp.apply(params, x)

    for seed in range(2):
        distil(network, params_for(mlp, seed), inputs_for(mlp), targets(), DistilOptions(2), key=KEY)
    assert len(set(traced)) == 1 and len(traced) <= 2


@pytest.mark.slow
def test_batch_norm_in_training_is_that_of_the_model():
    """The program with the batch's own statistics is flax's training mode; they are measured at the end."""
    net = build_model("resnet", (4, 4, 2), num_classes=3, widths=(4,), depths=(1,))
    params, x, spec = params_for(net, 0), inputs_for(net), net.perm_spec
    np.testing.assert_allclose(InTraining(spec)(params, x), net.train_apply(params, x)[0], atol=1e-4)
    got, losses = distil_network(spec, params, x, targets(), DistilOptions(5, 1e-2), key=KEY)
    assert losses[-1] < losses[0]
    chex.assert_trees_all_close(got, reset_norm(spec, got, x)[0], atol=1e-5)


@pytest.mark.slow
def test_functions_keep_their_own_derivatives_in_training():
    """A convolution's own gradient is many times faster in a compiled loop than that of its program."""

    @jax.custom_vjp
    def tripled(x):
        return x * jnp.asarray(1.0)

    tripled.defvjp(lambda x: (x, None), lambda _, cotangent: (3 * cotangent,))

    def network(params, x):
        x = (x @ params["w"] - params["mean"]) * jax.lax.rsqrt(params["var"] + 1e-5)
        return tripled(jax.nn.relu(x)) @ params["head"]

    params = {"w": jnp.ones((4, 3)), "mean": jnp.zeros(3), "var": jnp.ones(3), "head": jnp.ones((3, 2))}
    x = jax.random.normal(KEY, (6, 4))
    spec = af.infer_perm_spec(network, params, x)
    own, statistics = training_network(spec, params, x)
    assert statistics == {"mean", "var"}

    def batch_norm(params, x, triple):
        made = x @ params["w"]
        made = (made - made.mean(0)) * jax.lax.rsqrt(made.var(0) + 1e-5)
        return triple(jax.nn.relu(made)) @ params["head"]

    def gradient(network):
        return jax.grad(lambda params: (network(params) ** 3).sum())(params)["w"]

    got = gradient(lambda params: own(params, x))
    with_own = gradient(lambda params: batch_norm(params, x, tripled))
    without = gradient(lambda params: batch_norm(params, x, lambda v: v))
    np.testing.assert_allclose(got, with_own, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got, 3 * without, rtol=1e-3, atol=1e-3)
    assert float(jnp.abs(got).max()) > 0.1


def test_a_loss_that_explodes():
    x, params = jnp.ones((4, 4)), {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"distil: the loss must be finite; got nan in epoch 1.*Lower the"):
        distil(affine, params, x, targets(4), DistilOptions(3, 1e39), key=KEY)
