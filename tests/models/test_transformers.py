"""Networks of tokens: GPT-2, CLIP and T5."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.models.registry import build_model
from autofusion_jax.models.zero_shot import with_image_side, zero_shot_classifier
from tests.conftest import inputs_for, params_for
from tests.models.test_models import T5, build


@pytest.mark.slow
def test_a_token_sees_those_before_it_and_the_last_one_is_read():
    model = build("gpt2")
    params = params_for(model, 0)
    x = jnp.array([[3, 4, 5, 6, 0, 0], [3, 4, 5, 6, 0, 9], [3, 4, 5, 6, 7, 9], [3, 4, 0, 6, 0, 0]])
    y = np.asarray(model.apply(params, x))
    hidden = np.asarray(model.module.apply(params, x, method="token_features"))
    np.testing.assert_allclose(hidden[:3, :4], hidden[[0] * 3, :4], atol=1e-5)
    assert np.abs(hidden[1, 5] - hidden[2, 5]).max() > 1e-2
    kernel = params["params"]["head"]["kernel"]
    np.testing.assert_allclose(y, hidden[range(4), [3, 5, 5, 3]] @ kernel, atol=1e-5)


@pytest.mark.slow
def test_a_zero_shot_classifier_is_clip_with_the_texts_of_the_classes():
    clip = build("clip")
    params, x = params_for(clip, 0), inputs_for(clip, 6)
    prompts = [x["tokens"][:1], x["tokens"][1:2], x["tokens"][2:5]]
    model, classifier = zero_shot_classifier(clip, params, prompts)
    logits, expected = model.apply(classifier, x["images"]), clip.apply(params, x)
    np.testing.assert_allclose(logits[:, :2], expected[:, :2], rtol=1e-4)
    chex.assert_trees_all_equal(with_image_side(params, classifier), params)
    head = classifier["params"]["head"]
    vectors = np.asarray(clip.module.apply(params, x["tokens"], method="embed_texts"))
    mean = vectors[2:5].mean(0)
    np.testing.assert_allclose(head[:, 2], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_tied_head_is_refused():
    model = build_model("t5", (9,), tied=True, **T5)
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match="head must be a dense layer with bias; got none"):
        model.features(params, inputs_for(model))


def test_t5_reads_source_and_target():
    with pytest.raises(ValueError, match=r"x must be \[N, 5 \+ target tokens\]; got shape \(1, 5\)"):
        jax.eval_shape(build_model("t5", (5,), **T5).init, jax.random.key(0))
