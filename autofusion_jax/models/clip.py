"""CLIP, and the image classifier that it is with the texts of some classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.models.layers import LOGIT_SCALE, unit
from autofusion_jax.models.transformer import ImageTower, TokenTower, at_token
from autofusion_jax.types import Params

IMAGE_PARTS = ("image_tower", "image_projection", "logit_scale")
"""The parts that `CLIP` and `CLIPClassifier` share."""


class _ImageSide(nn.Module):
    """An `image_tower`, its `image_projection`, and `logit_scale`, the logarithm of the logits' scale.

    Attributes:
        embed_dim: size of the embeddings that are compared.
        image: attributes of its `ImageTower`.
    """

    embed_dim: int
    image: Mapping[str, Any]

    def setup(self) -> None:
        self.image_tower = ImageTower(**self.image, norm_first=True)
        self.image_projection = nn.Dense(self.embed_dim, use_bias=False)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(LOGIT_SCALE)), ())

    def embed_images(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch embed"]:
        """The unit vectors of images."""
        return unit(self.image_projection(self.image_tower.features(images)))


class CLIP(_ImageSide, kw_only=True):
    """Towers for images and for texts, whose unit vectors are compared.

    Its inputs are a dict of `images` `[N, h, w, c]` and `tokens` `[M, length]`, its logits `[N, M]`.

    Attributes:
        text: attributes of its `TokenTower`, `text_tower`.
        end: the token that ends a text and is read there (the first of them); None: the largest one.

    References:
        Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
    """

    text: Mapping[str, Any]
    end: int | None = None

    input_dtype: ClassVar = {"images": jnp.float32, "tokens": jnp.int32}

    def setup(self) -> None:  # noqa: D102
        super().setup()
        self.text_tower = TokenTower(**self.text)
        self.text_projection = nn.Dense(self.embed_dim, use_bias=False)

    def embed_texts(self, tokens: Int[Array, "texts tokens"]) -> Float[Array, "texts embed"]:
        """The unit vectors of texts."""
        last = jnp.argmax(tokens if self.end is None else tokens == self.end, axis=1)
        return unit(self.text_projection(at_token(self.text_tower.token_features(tokens), last)))

    def __call__(self, inputs: Mapping[str, Array]) -> Float[Array, "batch texts"]:
        """The logits of all pairs."""
        images, texts = self.embed_images(inputs["images"]), self.embed_texts(inputs["tokens"])
        return jnp.exp(self.logit_scale) * images @ texts.T


class CLIPClassifier(_ImageSide, kw_only=True):
    """The image side of CLIP and `head` `[embed_dim, classes]`, the unit vectors of the classes' texts.

    Attributes:
        num_classes: outputs.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """The logits."""
        head = self.param("head", nn.initializers.orthogonal(), (self.embed_dim, self.num_classes))
        return jnp.exp(self.logit_scale) * self.embed_images(images) @ head


def zero_shot_head(
    clip: CLIP, params: Params, prompts: Sequence[Int[Array, "_ tokens"]]
) -> Float[Array, "embed classes"]:
    """Make the head of a classifier from texts about its classes.

    Args:
        clip: the module.
        params: its parameters.
        prompts: for each class, the tokens of one or more texts, padded to one length.

    Returns:
        For each class the normalised mean of its texts' unit vectors.

    References:
        Radford et al., ICML 2021, section 3.1.4 (ensembling over the embedding space).
    """
    vectors = clip.apply(params, jnp.concatenate(prompts), method="embed_texts")
    parts = jnp.split(jnp.asarray(vectors), np.cumsum([len(texts) for texts in prompts])[:-1])
    return unit(jnp.stack([part.mean(0) for part in parts])).T
