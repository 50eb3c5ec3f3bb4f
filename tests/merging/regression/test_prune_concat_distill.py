"""The chain of teacher, least squares and distillation: each link is what it says."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.distillation import DistilOptions, distil
from autofusion_jax.merging.regression.prune_concat_distill import augmented_copies, averaged
from autofusion_jax.trees import num_params
from tests.conftest import inputs_for, params_for

OPTIONS = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3}
KEY = jax.random.key(2)


def merged(mlp, batch, **options):
    models = params_for(mlp, 0), params_for(mlp, 1)
    return af.merge(
        *models, mlp.perm_spec, batch, method="prune_concat_distill", key=KEY, **{**OPTIONS, **options}
    )


def by_hand(mlp, start, x, targets, round_number):
    distil_key = jax.random.split(jax.random.split(KEY, 1)[0])[1]
    key = jax.random.fold_in(distil_key, round_number)
    return distil(mlp.apply, start, x, targets, DistilOptions(4, 1e-3, 8), key=key)


@pytest.mark.slow
def test_one_after_the_other(mlp):
    """Teacher's probabilities, prune_concat on its labels, distillation, and one round of self-training."""
    models, x, spec = (params_for(mlp, 0), params_for(mlp, 1)), inputs_for(mlp), mlp.perm_spec
    teacher = af.merge(*models, spec, x, method="z_ensemble")
    probs = jax.nn.softmax(teacher.apply_fn(teacher.params, x))
    start = af.merge(*models, spec, x, method="prune_concat", pseudo_labels="z")
    first, losses = by_hand(mlp, start.params, x, probs, 0)
    result = merged(mlp, x, pseudo_labels="z", rounds=0)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-3)
    second, more = by_hand(mlp, first, x, averaged(probs, mlp.apply(first, x)), 1)
    again = merged(mlp, x, pseudo_labels="z", rounds=1)
    np.testing.assert_allclose(again.history["loss"], [*losses, *more], rtol=1e-3)
    np.testing.assert_allclose(mlp.apply(again.params, x), mlp.apply(second, x), rtol=1e-2, atol=1e-3)
    agreement = (np.asarray(mlp.apply(first, x)).argmax(-1) == np.asarray(probs).argmax(-1)).mean()
    assert result.diagnostics["agreement"]["distilled"] == pytest.approx(agreement)
    assert result.diagnostics["teacher"] == "z"
    assert result.num_learned == num_params(models[0])
    assert set(result.diagnostics) == {*start.diagnostics, "teacher", "agreement"} - {"head"}


@pytest.mark.slow
def test_every_copy_has_the_label_of_its_image(vgg):
    """At a rate of nothing the result is `prune_concat` on the inputs and two augmented copies of each."""
    models, x, spec = (params_for(vgg, 0), params_for(vgg, 1)), inputs_for(vgg), vgg.perm_spec
    teacher = af.merge(*models, spec, x, method="z_ensemble")
    labels = teacher.apply_fn(teacher.params, x).argmax(-1)
    assert len(set(labels.tolist())) > 1
    copies = augmented_copies(jax.random.split(jax.random.split(KEY, 1)[0])[0], x, "affine", 3)
    expected = af.merge(*models, spec, copies, labels=jnp.tile(labels, 3), method="prune_concat")
    result = af.merge(
        *models, spec, x, method="prune_concat_distill", key=KEY, pseudo_labels="z", augment="affine",
        copies=3, epochs=1, learning_rate=1e-20, rounds=0,
    )  # fmt: skip
    chex.assert_trees_all_close(result.params, expected.params, rtol=1e-4, atol=1e-5)


def test_real_labels_take_the_teachers_place(mlp):
    x = inputs_for(mlp)
    options = {"epochs": 200, "learning_rate": 1e-2, "augment": "none", "rounds": 0}
    result = merged(mlp, x, labels=jnp.arange(24) % 3, **options)
    assert result.diagnostics["teacher"] == "labels"
    assert result.diagnostics["agreement"]["distilled"] == 1.0
    np.testing.assert_array_equal(mlp.apply(result.params, x).argmax(-1), np.arange(24) % 3)


def test_copies_begin_with_the_inputs_and_are_images_only(mlp, vgg):
    x = inputs_for(vgg)
    copies = augmented_copies(KEY, x, "affine", 3)
    assert copies.shape == (72, *x.shape[1:])
    np.testing.assert_array_equal(copies[:24], x)
    assert np.any(copies[24:48] != x) and np.any(copies[24:48] != copies[48:])
    np.testing.assert_array_equal(augmented_copies(KEY, x, "none", 3), x)
    np.testing.assert_array_equal(augmented_copies(KEY, inputs_for(mlp), "affine", 3), inputs_for(mlp))
