"""VGG, with or without normalisation."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.conv import max_pool
from autofusion_jax.models.layers import Conv, apply_norm, build_head, build_norm


class VGG(nn.Module):
    """Convolutions `conv_0`, `conv_1`, ... with ReLU, pooled where said; flatten; a `head`.

    With a norm, `norm_0`, ... stand between convolution and ReLU, and the convolutions have no
    bias. The usual forms for images of 32 pixels are

    - VGG11: `widths` (64, 128, 256, 256, 512, 512, 512, 512), `pool_after` (0, 1, 3, 5, 7);
    - VGG16: `widths` (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
      `pool_after` (1, 3, 6, 9, 12).

    Attributes:
        num_classes: outputs of the head.
        widths: channels of the convolutions.
        pool_after: indices of the convolutions that a 2 x 2 max pooling follows.
        norm: `"none"`, `"batch"`, `"group"` or `"layer"`.
        norm_groups: groups of each GroupNorm.
        head: `"plain"` (dense) or `"cosine"`.
        embed_dim: size of the embedding of a cosine head.
    """

    num_classes: int
    widths: Sequence[int]
    pool_after: Sequence[int]
    norm: str = "none"
    norm_groups: int = 4
    head: str = "plain"
    embed_dim: int = 512

    def setup(self) -> None:  # noqa: D102
        plain = self.norm == "none"
        self.body = [Conv(w, use_bias=plain, name=f"conv_{i}") for i, w in enumerate(self.widths)]
        self.norms = [
            None if plain else build_norm(self.norm, f"norm_{i}", groups=self.norm_groups)
            for i in range(len(self.widths))
        ]
        self.readout = build_head(self.head, self.num_classes, embed_dim=self.embed_dim)

    def features(self, x: Float[Array, "batch h w c"], train: bool = False) -> Float[Array, "batch features"]:
        """The features, input of the head: the last feature map, flattened height x width x channels."""
        for i, (layer, norm) in enumerate(zip(self.body, self.norms)):
            x = layer(x)
            x = jax.nn.relu(x if norm is None else apply_norm(norm, x, train))
            if i in self.pool_after:
                x = max_pool(x)
        return x.reshape(x.shape[0], -1)

    def __call__(self, x: Float[Array, "batch h w c"], train: bool = False) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(x, train))
