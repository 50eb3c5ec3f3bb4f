"""Zero-shot classifiers from CLIP, for merging, and back to CLIP."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.models.layers import unit
from autofusion_jax.models.registry import Model, build_model
from autofusion_jax.types import Params

SHARED = ("image_tower", "image_projection", "logit_scale")
"""The parts that CLIP and the classifier have in common."""


def zero_shot_head(
    clip: Model, params: Params, prompts: Sequence[Int[Array, "_ tokens"]]
) -> Float[Array, "embed classes"]:
    """Make the head of a classifier from texts about its classes.

    Args:
        clip: a `"clip"` model.
        params: its parameters.
        prompts: for each class, the tokens of one or more texts, padded to one length.

    Returns:
        For each class the normalised mean of its texts' unit vectors.

    References:
        Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML
        2021, section 3.1.4 (ensembling over the embedding space).
    """
    vectors = clip.module.apply(params, jnp.concatenate(prompts), method="embed_texts")
    ends = [sum(len(texts) for texts in prompts[: number + 1]) for number in range(len(prompts) - 1)]
    parts = jnp.split(jnp.asarray(vectors), ends)
    return unit(jnp.stack([part.mean(0) for part in parts])).T


def zero_shot_classifier(
    clip: Model, params: Params, prompts: Sequence[Int[Array, "_ tokens"]]
) -> tuple[Model, Params]:
    """Make the image classifier that CLIP is with the texts of some classes; `prompts` as above.

    Returns:
        A `"clip_classifier"` model and its parameters: the image side of CLIP and the head.
    """
    options = {"embed_dim": clip.module.embed_dim, "image": clip.module.image}
    model = build_model("clip_classifier", clip.input_shape["images"], num_classes=len(prompts), **options)
    parts = {name: params["params"][name] for name in SHARED}
    return model, {"params": parts | {"head": zero_shot_head(clip, params, prompts)}}


def with_image_side(params: Params, classifier: Params) -> Params:
    """CLIP's parameters with the image side of a (merged) classifier."""
    return {"params": {**params["params"], **{name: classifier["params"][name] for name in SHARED}}}
