"""A small convolutional encoder-decoder: images in, maps of the same height and width out."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.layers import Conv, apply_norm, build_norm
from autofusion_jax.validation import require


class EncoderDecoder(nn.Module):
    """Convolutions `encoder_0`, ..., `decoder_0`, ..., each with a norm and ReLU, and a 1 x 1 `head`.

    Every encoder convolution but the first halves height and width, every decoder convolution
    works on its input doubled by repetition; the widths of the decoder are those of the encoder
    in reverse. For tasks whose outputs are images (colours, depth, segments): networks of two
    such tasks share the form of their bodies, and differ in `num_classes` and thus in the head.

    Attributes:
        num_classes: channels of the output.
        widths: channels of the encoder's convolutions.
        norm: `"batch"`, `"group"` or `"layer"`.
        norm_groups: groups of each GroupNorm.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    norm: str = "batch"
    norm_groups: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], train: bool = False
    ) -> Float[Array, "batch h w classes"]:
        """The output maps."""
        halvings = len(self.widths) - 1
        require(
            x.shape[1] % 2**halvings == 0 and x.shape[2] % 2**halvings == 0,
            "build_model", "widths", "so many that the image can be halved for each but the first",
            f"{len(self.widths)} widths for {x.shape[1]} x {x.shape[2]} pixels",
        )  # fmt: skip
        for i, width in enumerate(self.widths):
            x = self._layer(f"encoder_{i}", x, width, 2 if i else 1, train)
        for i, width in enumerate(self.widths[-2::-1]):
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = self._layer(f"decoder_{i}", x, width, 1, train)
        return Conv(self.num_classes, 1, name="head")(x)

    def _layer(self, name: str, x: Array, width: int, stride: int, train: bool) -> Array:
        x = Conv(width, 3, stride, use_bias=False, name=name)(x)
        return jax.nn.relu(
            apply_norm(build_norm(self.norm, f"{name}_norm", groups=self.norm_groups), x, train)
        )
