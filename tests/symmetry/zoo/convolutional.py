"""Plain convolutional networks and the mixer: flattening, concatenation, gates, tokens."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from tests.symmetry.zoo.case import (
    Case,
    Move,
    conv_places,
    dense_places,
    join,
    norm_places,
    of_module,
    swap,
    tie,
    tiled,
)

BatchNorm = functools.partial(nn.BatchNorm, use_running_average=True)


class VGG(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate((4, 6, 8)):
            x = nn.relu(BatchNorm(name=f"norm_{i}")(nn.Conv(width, (3, 3), name=f"conv_{i}")(x)))
            if i:
                x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(12, name="fc")(x.reshape(x.shape[0], -1)))
        return nn.Dense(3, name="head")(x)


class DenseNet(nn.Module):
    """Two dense blocks, a transition between them; every norm reads a concatenation."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(8, (3, 3), name="stem")(x)
        for i in range(3):
            y = nn.relu(BatchNorm(name=f"norm_{i}")(x))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3), name=f"conv_{i}")(y)], -1)
        x = nn.Conv(10, (1, 1), name="transition")(nn.relu(BatchNorm(name="norm_t")(x)))
        x = nn.avg_pool(x, (2, 2), (2, 2))
        for i in range(3, 5):
            y = nn.relu(BatchNorm(name=f"norm_{i}")(x))
            x = jnp.concatenate([x, nn.Conv(5, (3, 3), name=f"conv_{i}")(y)], -1)
        return nn.Dense(3, name="head")(nn.relu(BatchNorm(name="norm_h")(x)).mean((1, 2)))


class UNet(nn.Module):
    """Two levels down and up; `resize` instead of transposed convolutions if set."""

    resize: str = ""

    def up(self, x: Array, width: int, name: str) -> Array:
        if self.resize:
            return jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), self.resize)
        return nn.ConvTranspose(width, (2, 2), (2, 2), name=name)(x)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def double(x: Array, width: int, name: str) -> Array:
            x = nn.relu(nn.Conv(width, (3, 3), name=f"{name}a")(x))
            return nn.relu(nn.Conv(width, (3, 3), name=f"{name}b")(x))

        fine = double(x, 4, "down0")
        coarse = double(nn.max_pool(fine, (2, 2), (2, 2)), 6, "down1")
        x = double(nn.max_pool(coarse, (2, 2), (2, 2)), 12, "bottom")
        x = double(jnp.concatenate([coarse, self.up(x, 7, "up1")], -1), 8, "dec1")
        x = double(jnp.concatenate([fine, self.up(x, 5, "up0")], -1), 9, "dec0")
        return nn.Conv(2, (1, 1), name="head")(x)


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        x = nn.relu(nn.Conv(12, (3, 3), name="conv")(x))
        gate = nn.silu(nn.Dense(3, name="squeeze")(x.mean((1, 2))))
        x = x * nn.sigmoid(nn.Dense(12, name="excite")(gate))[:, None, None]
        return nn.Dense(3, name="head")(x.max((1, 2)))


class Mixer(nn.Module):
    """MLP-Mixer: 16 tokens of 8 channels; an MLP over tokens, an MLP over channels, twice."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(8, (2, 2), (2, 2), name="patches")(x)
        x = x.reshape(x.shape[0], -1, 8)
        for i in range(2):
            y = jnp.swapaxes(nn.LayerNorm(name=f"norm_t{i}")(x), 1, 2)
            y = nn.Dense(16, name=f"tokens_down{i}")(nn.gelu(nn.Dense(12, name=f"tokens_up{i}")(y)))
            x = x + jnp.swapaxes(y, 1, 2)
            y = nn.gelu(nn.Dense(20, name=f"channels_up{i}")(nn.LayerNorm(name=f"norm_c{i}")(x)))
            x = x + nn.Dense(8, name=f"channels_down{i}")(y)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


def grown(producer: str, width: int, start: int, readers: str) -> Move:
    """Exchange two channels of a DenseNet block that starts at `start` of the concatenations.

    `readers` are the norms that read it, each followed by a convolution of its own.
    """
    follow = {"t": ("transition", 20), "h": ("head", 20), "3": ("conv_3", 10), "4": ("conv_4", 15)}
    moves = [tie(swap(width, 0, width - 1), *conv_places(producer))]
    for reader in readers:
        name, size = follow.get(reader, (f"conv_{reader}", 8 + 4 * "012".find(reader)))
        place = f"params/{name}/kernel@{0 if name == 'head' else 2}"
        moves.append(tie(swap(size, start, start + width - 1), *norm_places(f"norm_{reader}"), place))
    return join(*moves)


def skipped(reader: str, start: int, size: int, width: int, *producers: str) -> Move:
    """Exchange two channels of one part of a U-Net's concatenation, which convolution `reader` reads."""
    read = tie(swap(size, start, start + width - 1), f"params/{reader}/kernel@2")
    return join(tie(swap(width, 0, width - 1), *producers), read)


UNET_WHY = (
    "Every convolution has its own channels. A concatenation is two blocks of the axis that reads it: "
    "the skip, which the next level also reads through the pooling, and what comes up."
)
FINE = (*conv_places("down0b"), "params/down1a/kernel@2")
UNET_RESIZED = ((4,) * 2 + (6,) * 2 + (8,) * 2 + (9,) * 2 + (12,) * 2, UNET_WHY + " Resizing adds none.")
UNET_RESIZED_MOVES = (
    skipped("dec0a", 0, 12, 4, *FINE),
    skipped("dec0a", 4, 12, 8, *conv_places("dec1b")),
    skipped("dec1a", 6, 18, 12, *conv_places("bottomb")),
)

CASES = {
    "vgg_flattened": Case(
        of_module(VGG()),
        (4, 6, 8, 12),
        "One group for each convolution and its norm; the flattened map is 2 x 2 fixed pixels times "
        "the last channels; the hidden dense layer is free.",
        moves=(
            tie(swap(6, 0, 4), *conv_places("conv_1"), *norm_places("norm_1"), "params/conv_2/kernel@2"),
            join(
                tie(swap(8, 2, 7), *conv_places("conv_2"), *norm_places("norm_2")),
                tie(tiled(swap(8, 2, 7), 4), "params/fc/kernel@0"),
            ),
            tie(swap(12, 0, 5), *dense_places("fc"), "params/head/kernel@0"),
        ),
    ),
    "densenet": Case(
        of_module(DenseNet()),
        (4, 4, 4, 5, 5, 8, 10),
        "The stem, every growth and the transition are one group each: blocks of the concatenations "
        "that later norms and convolutions read. Each block is read by other layers, so none mix.",
        moves=(
            grown("stem", 8, 0, "012t"),
            grown("conv_1", 4, 12, "2t"),
            grown("transition", 10, 0, "34h"),
            grown("conv_4", 5, 15, "h"),
        ),
    ),
    "unet_transposed": Case(
        of_module(UNet()),
        (4, 4, 5, 6, 6, 7, 8, 8, 9, 9, 12, 12),
        UNET_WHY,
        moves=(
            skipped("dec0a", 0, 9, 4, *FINE),
            skipped("dec0a", 4, 9, 5, *conv_places("up0")),
            tie(swap(8, 0, 3), *conv_places("dec1b"), "params/up0/kernel@2"),
        ),
    ),
    "unet_nearest": Case(of_module(UNet("nearest")), *UNET_RESIZED, moves=UNET_RESIZED_MOVES),
    "unet_bilinear": Case(of_module(UNet("bilinear")), *UNET_RESIZED, moves=UNET_RESIZED_MOVES),
    "squeeze_excite": Case(
        of_module(SqueezeExcite()),
        (3, 8, 12),
        "The gate multiplies the map, so the excitation's outputs are the map's 12 channels, which "
        "the squeeze also reads; the squeeze has 3 units of its own; the stem 8.",
        moves=(
            tie(
                swap(12, 1, 10),
                *conv_places("conv"),
                "params/squeeze/kernel@0",
                *dense_places("excite"),
                "params/head/kernel@0",
            ),
            tie(swap(3, 0, 2), *dense_places("squeeze"), "params/excite/kernel@0"),
        ),
    ),
    "mlp_mixer": Case(
        of_module(Mixer()),
        (8, 12, 12, 20, 20),
        "One stream of 8 channels; a hidden axis in each of the 4 MLPs. The 16 tokens are pixels of "
        "the input, so token axes stay, though two dense layers read and write them.",
        moves=(
            tie(swap(12, 3, 7), *dense_places("tokens_up1"), "params/tokens_down1/kernel@0"),
            tie(swap(20, 3, 7), *dense_places("channels_up0"), "params/channels_down0/kernel@0"),
            tie(
                swap(8, 0, 6),
                *conv_places("patches"),
                *(
                    place
                    for i in range(2)
                    for place in (
                        *norm_places(f"norm_t{i}", "layer"),
                        *norm_places(f"norm_c{i}", "layer"),
                        f"params/channels_up{i}/kernel@0",
                        *dense_places(f"channels_down{i}"),
                    )
                ),
                *norm_places("norm", "layer"),
                "params/head/kernel@0",
            ),
        ),
    ),
}
