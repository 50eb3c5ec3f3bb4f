"""Residual networks: ResNet20 and ResNet26 in the form used on CIFAR, ResNet18 to ResNet152 on ImageNet."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from autofusion_jax.models.conv import max_pool
from autofusion_jax.models.layers import Conv, apply_norm, build_head, build_norm
from autofusion_jax.validation import unknown_name

KERNELS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
"""Kernel sizes of the convolutions of a block; the first of size 3 has the block's stride."""

INPUTS = {"small": (3, 1), "large": (7, 2)}
"""Size and stride of the stem's kernel; for large images a 3 x 3 max-pool with stride 2 follows it."""

EXPANSION = 4
"""Channels at the end of a bottleneck, as a multiple of its width."""


class Block(nn.Module):
    """Convolutions `conv_0`, ... each with `norm_0`, ...; a `shortcut` where shapes change; ReLU."""

    width: int
    stride: int
    kind: str
    norm: str
    norm_groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], train: bool) -> Float[Array, "batch h2 w2 c2"]:
        """The feature map."""
        sizes = KERNELS[self.kind]
        width = self.width * (EXPANSION if self.kind == "bottleneck" else 1)
        y = x
        for i, size in enumerate(sizes):
            last = i + 1 == len(sizes)
            stride = self.stride if i == sizes.index(3) else 1
            y = Conv(width if last else self.width, size, stride, use_bias=False, name=f"conv_{i}")(y)
            y = apply_norm(build_norm(self.norm, f"norm_{i}", groups=self.norm_groups), y, train)
            y = y if last else jax.nn.relu(y)
        if self.stride > 1 or x.shape[-1] != width:
            x = Conv(width, 1, self.stride, use_bias=False, name="shortcut")(x)
            x = apply_norm(build_norm(self.norm, "shortcut_norm", groups=self.norm_groups), x, train)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """A `stem` convolution, stages of blocks `stage0_block0`, ..., the mean over pixels, a `head`.

    Every stage but the first halves height and width. `depths` (3, 3, 3) with basic blocks is
    ResNet20, (4, 4, 4) ResNet26; (3, 4, 6, 3) bottlenecks of widths (64, 128, 256, 512) with
    large inputs is ResNet50, in torchvision's form (the stride is in the 3 x 3 convolution).

    Attributes:
        num_classes: outputs of the head.
        widths: channels of each stage; of the inner convolutions for bottlenecks.
        depths: blocks of each stage.
        block: `"basic"` or `"bottleneck"`.
        inputs: `"small"` or `"large"` images: a stem of 3 x 3, or of 7 x 7 with stride 2 and a max-pool.
        norm: `"batch"`, `"group"` or `"layer"`.
        norm_groups: groups of each GroupNorm.
        head: `"plain"` (dense) or `"cosine"`.
        embed_dim: size of the embedding of a cosine head.

    References:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016; shortcuts are
        projections (option B), as in the networks that merging papers use.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    depths: Sequence[int] = (3, 3, 3)
    block: str = "basic"
    inputs: str = "small"
    norm: str = "batch"
    norm_groups: int = 4
    head: str = "plain"
    embed_dim: int = 512

    def setup(self) -> None:  # noqa: D102
        if self.block not in KERNELS:
            raise unknown_name("build_model", "block", self.block, KERNELS)
        if self.inputs not in INPUTS:
            raise unknown_name("build_model", "inputs", self.inputs, INPUTS)
        self.stem = Conv(self.widths[0], *INPUTS[self.inputs], use_bias=False)
        self.stem_norm = build_norm(self.norm, "stem_norm", groups=self.norm_groups)
        self.body = [
            Block(width, 2 if stage and not block else 1, self.block, self.norm, self.norm_groups,
                  name=f"stage{stage}_block{block}")
            for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True))
            for block in range(depth)
        ]  # fmt: skip
        self.readout = build_head(self.head, self.num_classes, embed_dim=self.embed_dim)

    def features(self, x: Float[Array, "batch h w c"], train: bool = False) -> Float[Array, "batch features"]:
        """The features, input of the head: the mean of the last feature map over its pixels."""
        x = jax.nn.relu(apply_norm(self.stem_norm, self.stem(x), train))
        x = max_pool(x, size=3) if self.inputs == "large" else x
        for block in self.body:
            x = block(x, train)
        return x.mean((1, 2))

    def __call__(self, x: Float[Array, "batch h w c"], train: bool = False) -> Float[Array, "batch classes"]:
        """The logits."""
        return self.readout(self.features(x, train))
