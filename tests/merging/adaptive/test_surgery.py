"""Representation surgery: what it learns, by hand and on networks; checkpoints, bad options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.adaptive.surgery import HeadReader, learn_modules, repaired, surgery_apply
from autofusion_jax.models.layers import LOGIT_SCALE, class_vectors
from autofusion_jax.models.registry import build_model
from autofusion_jax.trees import flatten_by_path
from tests.conftest import fine_tuned, inputs_for, params_for

STEPS = {"num_steps": 300, "learning_rate": 1e-2}


def merged(model, x, **options):
    base, models = fine_tuned(model)
    return af.merge_many(models, model.perm_spec, x, base=base, method=af.methods.surgery(**options))


def test_the_head_reads_what_the_head_reads(model):
    """Nothing but the head's own product lies between what is read and the logits."""
    params, x = params_for(model, 0), inputs_for(model)
    seen = HeadReader(model.apply)(params, x)
    head = {path: leaf for path, leaf in flatten_by_path(params).items() if leaf.shape[-1] == 3}
    kernel, bias = (next(v for v in head.values() if v.ndim == ndim) for ndim in (2, 1))
    np.testing.assert_allclose(seen @ kernel + bias, model.apply(params, x), atol=1e-5)


@pytest.mark.slow
def test_heads_are_what_the_formula_says(model):
    """Each head: the merged trunk, the module, and the own network's head."""
    x = inputs_for(model)
    result = merged(model, x, num_steps=20, learning_rate=0.1)
    params = result.params
    assert result.num_heads == 2
    assert params["modules"]["down"].shape[::2] == (2, 16)
    seen = HeadReader(model.apply)(params["network"], x)
    outputs = jax.jit(result.apply_fn)(params, x)
    kernel, bias = (next(v for v in params["heads"].values() if v.ndim == ndim) for ndim in (3, 2))
    for task in range(2):
        modules = jax.tree.map(lambda leaf, task=task: leaf[task], params["modules"])
        assert float(jnp.abs(modules["up"]).max()) > 0
        expected = repaired(modules, seen) @ kernel[task] + bias[task]
        np.testing.assert_allclose(outputs[task], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["task_arithmetic", "adamerging"])
@pytest.mark.slow
def test_representations_come_nearer_to_those_of_the_own_networks(mlp, method):
    x = inputs_for(mlp, 64)
    chosen = af.methods.adamerging(num_steps=5) if method == "adamerging" else method
    result = merged(mlp, x, method=chosen, inputs=[x, 2 * x], **STEPS)
    distance = result.history["distance"]
    assert distance.shape == (300, 2)
    assert (distance[-20:].mean(0) < 0.8 * distance[:20].mean(0)).all()


def test_steps_are_those_of_adam_on_each_task_alone():
    """Full batches: one module after two steps, by hand; the other task changes nothing in it."""
    rng = np.random.default_rng(0)
    pairs = tuple(tuple(jnp.asarray(rng.normal(size=(6, 3)), jnp.float32) for _ in "ab") for _ in "ab")
    steps = (("batch_size", 6), ("learning_rate", 0.1), ("num_steps", 1))
    modules, distance = learn_modules(pairs, jax.random.key(0), rank=2, steps=steps)
    for task, (seen, own) in enumerate(pairs):
        np.testing.assert_allclose(distance[0, task], jnp.abs(seen - own).mean(), rtol=1e-6)
        down = modules["down"][task]  # no gradient reaches it while `up` is zero

        def loss(up, seen=seen, own=own, down=down):
            return jnp.abs(seen - jax.nn.relu(seen @ down) @ up - own).mean()

        direction = jnp.sign(jax.grad(loss)(jnp.zeros((2, 3))))  # Adam's first step
        np.testing.assert_allclose(modules["up"][task], -0.1 * direction, atol=1e-4)


def test_it_is_saved_and_loaded(mlp, tmp_path):
    x = inputs_for(mlp)
    result = merged(mlp, x[:7], num_steps=5, rank=3)
    af.save(tmp_path / "surgery", result.params)
    params = af.load(tmp_path / "surgery").params
    chex.assert_trees_all_equal(params, jax.tree.map(np.asarray, result.params))
    outputs = jax.jit(surgery_apply(mlp.apply))(params, x)
    np.testing.assert_array_equal(outputs, jax.jit(result.apply_fn)(result.params, x))
    assert result.diagnostics["num_params"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert result.num_learned == params["modules"]["down"].size * 2


def test_inputs_and_losses_that_cannot_be(mlp):
    for options, message in [
        ({"inputs": [jnp.zeros((2, 4, 4))]}, "inputs must be 2 batches, one for each network; got 1"),
        ({"method": af.methods.smile(rank=1)}, "surgery: method must be one whose network has"),
        ({"learning_rate": 1e38, "num_steps": 5}, "surgery: the distance must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            merged(mlp, inputs_for(mlp), **options)


@pytest.mark.slow
def test_what_follows_the_head_may_hold_nothing_learned():
    """A CLIP-style head: the module changes what the projection reads, cosines follow."""
    model = build_model("mlp", (4, 4), num_classes=3, widths=(6,), head="cosine", embed_dim=5)
    x = inputs_for(model)
    result = merged(model, x, num_steps=5, learning_rate=0.1)
    seen = HeadReader(model.apply)(result.params["network"], x)
    for task, logits in enumerate(result.apply_fn(result.params, x)):
        modules, heads = jax.tree.map(lambda leaf, task=task: leaf[task], (
            result.params["modules"], result.params["heads"]))  # fmt: skip
        weights = {path.rsplit("/", 1)[1]: leaf for path, leaf in heads.items()}
        made = repaired(modules, seen) @ weights["kernel"] + weights["bias"]
        cosines = made / jnp.linalg.norm(made, axis=1, keepdims=True) @ class_vectors(3, 5)
        np.testing.assert_allclose(logits, LOGIT_SCALE * cosines, atol=1e-3)


def test_a_network_without_a_head_is_refused(mlp):
    base, models = fine_tuned(mlp)
    with pytest.raises(ValueError, match="surgery: the networks' output must be one array"):
        af.merge_many(
            models, None, inputs_for(mlp), base=base, method="surgery",
            apply_fn=lambda params, x: mlp.apply(params, x) + mlp.apply(params, -x),
        )  # fmt: skip
