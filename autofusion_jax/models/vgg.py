"""A small VGG without normalisation."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.conv import conv_same, max_pool


class Conv(nn.Module):
    """A 3 x 3 convolution with bias, stride 1, zero padded."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w width"]:
        """The feature map, same height and width."""
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return conv_same(x, kernel) + self.param("bias", nn.initializers.zeros, (self.width,))


class VGG(nn.Module):
    """Convolutions `conv_0`, `conv_1`, ... with ReLU, pooled where said; flatten; a dense `head`.

    Attributes:
        widths: channels of the convolutions.
        pool_after: indices of the convolutions that a 2 x 2 max pooling follows.
        num_classes: outputs of the head.
    """

    widths: Sequence[int]
    pool_after: Sequence[int]
    num_classes: int

    def setup(self) -> None:  # noqa: D102
        self.body = [Conv(w, name=f"conv_{i}") for i, w in enumerate(self.widths)]
        self.head = nn.Dense(self.num_classes)

    def features(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch features"]:
        """What the head reads: the last feature map, flattened height x width x channels."""
        for i, layer in enumerate(self.body):
            x = jax.nn.relu(layer(x))
            if i in self.pool_after:
                x = max_pool(x)
        return x.reshape(x.shape[0], -1)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.head(self.features(x))
