"""GPT-2 with a head for classes."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.models.transformer import TokenTower, at_token


class GPT2(TokenTower, kw_only=True):
    """A tower for tokens and a `head` without bias, which reads each input's last token.

    Its attributes are those of `TokenTower` and `Tower`, and these.

    Attributes:
        num_classes: outputs of the head.
        pad: the token that fills the end of an input; the last other one is read.

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """

    num_classes: int
    pad: int
    epsilon: float = 1e-5

    input_dtype: ClassVar = jnp.int32

    def setup(self) -> None:  # noqa: D102
        super().setup()
        self.readout = nn.Dense(self.num_classes, use_bias=False, name="head")

    def features(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch dim"]:
        """The features: the input of the head."""
        last = jnp.argmax(jnp.arange(tokens.shape[1]) * (tokens != self.pad), axis=1)
        return at_token(self.token_features(tokens), last)

    def __call__(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(tokens))
