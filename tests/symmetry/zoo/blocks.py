"""Blocks of modern convolutional networks: bottlenecks, grouped and depthwise convolutions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from tests.symmetry.zoo.case import (
    Case,
    blocked,
    conv_places,
    dense_places,
    join,
    norm_places,
    of_module,
    positions,
    swap,
    tie,
)

BatchNorm = functools.partial(nn.BatchNorm, use_running_average=True)


class Bottleneck(nn.Module):
    """Reduce 1 x 1, a 3 x 3 convolution in `groups` groups, expand 1 x 1; BatchNorm throughout."""

    inner: tuple[int, int]
    width: int
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        y = nn.relu(BatchNorm(name="norm_1")(nn.Conv(self.inner[0], (1, 1), name="reduce")(x)))
        conv = nn.Conv(self.inner[1], (3, 3), strides, feature_group_count=self.groups, name="conv")
        y = nn.relu(BatchNorm(name="norm_2")(conv(y)))
        y = BatchNorm(name="norm_3")(nn.Conv(self.width, (1, 1), name="expand")(y))
        if x.shape != y.shape:
            x = BatchNorm(name="proj_norm")(nn.Conv(self.width, (1, 1), strides, name="proj")(x))
        return nn.relu(x + y)


class Mobile(nn.Module):
    """Expand 1 x 1, depthwise 3 x 3, project 1 x 1 without activation, residual if it fits."""

    hidden: int
    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        y = nn.relu6(BatchNorm(name="norm_1")(nn.Conv(self.hidden, (1, 1), name="expand")(x)))
        depthwise = nn.Conv(self.hidden, (3, 3), strides, feature_group_count=self.hidden, name="depthwise")
        y = nn.relu6(BatchNorm(name="norm_2")(depthwise(y)))
        y = BatchNorm(name="norm_3")(nn.Conv(self.width, (1, 1), name="project")(y))
        return x + y if x.shape == y.shape else y


class ConvNeXt(nn.Module):
    """Depthwise 5 x 5, LayerNorm, an MLP of four times the width, layer scale, residual."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = nn.Conv(width, (5, 5), feature_group_count=width, name="depthwise")(x)
        y = nn.gelu(nn.Dense(4 * width, name="up")(nn.LayerNorm(name="norm")(y)))
        y = nn.Dense(width, name="down")(y)
        return x + y * self.param("gamma", nn.initializers.ones, (width,))


class Stack(nn.Module):
    """A convolution `stem`, the layers in order, the mean over pixels, a dense `head`."""

    layers: tuple[Any, ...]
    stem: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(self.stem, (3, 3), name="stem")(x))
        for layer in self.layers:
            x = layer(x)
        return nn.Dense(3, name="head")(jnp.mean(jax.nn.relu(x), (1, 2)))


NEXT = "params/layers_1"
RESNEXT_INNER = positions(3, 3, 2, 12)  # 4 groups: 2 channels in, 3 out each
RESNEXT_INNER[..., 3:6] = RESNEXT_INNER[:, :, ::-1, 3:6]  # the inputs of group 1 alone

CASES = {
    "bottlenecks": Case(
        of_module(
            Stack(
                (
                    Bottleneck((4, 6), 16),
                    Bottleneck((4, 6), 16),
                    Bottleneck((8, 10), 24, 2),
                    Bottleneck((8, 10), 24),
                ),
                stem=5,
            )
        ),
        (4, 4, 5, 6, 6, 8, 8, 10, 10, 16, 24),
        "Stem 5; two inner axes for each of 4 blocks; the streams of the two stages, 16 and 24, each "
        "begun by a projection and shared by the expansions of its two blocks.",
        moves=(
            tie(
                swap(5, 0, 4),
                *conv_places("stem"),
                "params/layers_0/reduce/kernel@2",
                "params/layers_0/proj/kernel@2",
            ),
            tie(
                swap(4, 0, 2),
                *conv_places("layers_1/reduce"),
                *norm_places("layers_1/norm_1"),
                f"{NEXT}/conv/kernel@2",
            ),
            tie(
                swap(6, 1, 2),
                *conv_places("layers_1/conv"),
                *norm_places("layers_1/norm_2"),
                f"{NEXT}/expand/kernel@2",
            ),
            tie(
                swap(24, 3, 20),
                *conv_places("layers_2/proj"),
                *norm_places("layers_2/proj_norm"),
                *conv_places("layers_2/expand"),
                *norm_places("layers_2/norm_3"),
                *conv_places("layers_3/expand"),
                *norm_places("layers_3/norm_3"),
                "params/layers_3/reduce/kernel@2",
                "params/head/kernel@0",
            ),
        ),
    ),
    "resnext": Case(
        of_module(Stack((Bottleneck((8, 12), 16, groups=4), Bottleneck((8, 12), 16, groups=4)), stem=5)),
        (2, 2, 3, 3, 4, 4, 5, 16),
        "Each grouped convolution reads 4 x 2 and writes 4 x 3 channels: the 4 groups are one axis, "
        "shared by input and output; within each group the 2 inputs and the 3 outputs permute on "
        "their own. Stem 5, stream 16.",
        nested=(2, 2, 3, 3),
        moves=(
            join(  # two groups as a whole: 2 channels before, 3 behind
                tie(
                    blocked(swap(4, 0, 2), 2),
                    *conv_places("layers_1/reduce"),
                    *norm_places("layers_1/norm_1"),
                ),
                tie(
                    blocked(swap(4, 0, 2), 3), *conv_places("layers_1/conv"), *norm_places("layers_1/norm_2")
                ),
                tie(blocked(swap(4, 0, 2), 3), f"{NEXT}/expand/kernel@2"),
            ),
            join(  # the two inputs of group 1 only
                tie(swap(8, 2, 3), *conv_places("layers_1/reduce"), *norm_places("layers_1/norm_1")),
                {f"{NEXT}/conv/kernel": ((None, RESNEXT_INNER),)},
            ),
            tie(  # two outputs of group 0 only
                swap(12, 0, 2),
                *conv_places("layers_1/conv"),
                *norm_places("layers_1/norm_2"),
                f"{NEXT}/expand/kernel@2",
            ),
        ),
    ),
    "mobilenet": Case(
        of_module(Stack((Mobile(16, 8), Mobile(24, 8), Mobile(20, 12, 2)), stem=8)),
        (8, 12, 16, 20, 24),
        "A depthwise convolution ties its outputs to its inputs: one axis inside each block (16, 24, "
        "20). The stem and two residual blocks share a stream of 8; the strided block writes 12.",
        moves=(
            tie(
                swap(24, 3, 17),
                *conv_places("layers_1/expand"),
                *norm_places("layers_1/norm_1"),
                *conv_places("layers_1/depthwise"),
                *norm_places("layers_1/norm_2"),
                "params/layers_1/project/kernel@2",
            ),
            tie(
                swap(8, 1, 6),
                *conv_places("stem"),
                *conv_places("layers_0/project"),
                *norm_places("layers_0/norm_3"),
                *conv_places("layers_1/project"),
                *norm_places("layers_1/norm_3"),
                *(f"params/layers_{i}/expand/kernel@2" for i in range(3)),
            ),
        ),
    ),
    "convnext": Case(
        of_module(Stack((ConvNeXt(), ConvNeXt(), nn.LayerNorm(), nn.Conv(6, (2, 2), (2, 2)), ConvNeXt()), 4)),
        (4, 6, 16, 16, 24),
        "Depthwise convolution, LayerNorm over channels, layer scale and the sum are all on the "
        "stream: 4, then 6 behind the downsampling. Each MLP has a hidden axis of its own.",
        moves=(
            tie(swap(16, 2, 9), *dense_places("layers_1/up"), f"{NEXT}/down/kernel@0"),
            tie(
                swap(4, 0, 3),
                *conv_places("stem"),
                *(
                    place
                    for name in ("layers_0", "layers_1")
                    for place in (
                        *conv_places(f"{name}/depthwise"),
                        *norm_places(f"{name}/norm", "layer"),
                        f"params/{name}/up/kernel@0",
                        *dense_places(f"{name}/down"),
                        f"params/{name}/gamma@0",
                    )
                ),
                *norm_places("layers_2", "layer"),
                "params/layers_3/kernel@2",
            ),
        ),
    ),
    "depthwise_multiplier": Case(
        of_module(Stack((nn.Conv(12, (3, 3), feature_group_count=4),), stem=4)),
        (3, 4),
        "Every input channel has three outputs of its own: 4 channels, shared by input and output, "
        "and 3 nested in them.",
        nested=(3,),
        moves=(
            join(
                tie(swap(4, 0, 2), *conv_places("stem")),
                tie(blocked(swap(4, 0, 2), 3), *conv_places("layers_0"), "params/head/kernel@0"),
            ),
            tie(swap(12, 3, 5), *conv_places("layers_0"), "params/head/kernel@0"),
        ),
    ),
}
