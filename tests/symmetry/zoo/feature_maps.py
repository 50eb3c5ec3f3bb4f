"""What may be done to feature maps: windows, strides, layouts, transposition, several readers."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from tests.symmetry.zoo.case import Case, blocked, conv_places, join, of_function, of_module, swap, tie, tiled

NHWC = ("NHWC", "HWIO", "NHWC")
Leaves = Mapping[str, Array]


class Pooled(nn.Module):
    """Overlapping maximum, average and count-excluding average windows."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.max_pool(nn.tanh(nn.Conv(4, (3, 3), name="conv_0")(x)), (3, 3), (2, 2), "SAME")
        x = nn.avg_pool(nn.tanh(nn.Conv(6, (3, 3), name="conv_1")(x)), (2, 2), (1, 1))
        x = nn.tanh(nn.Conv(8, (3, 3), name="conv_2")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


def strided_dilated(params: Leaves, x: Array) -> Array:
    x = lax.conv_general_dilated(x, params["strided"], (2, 2), "SAME", dimension_numbers=NHWC)
    x = lax.conv_general_dilated(
        jax.nn.relu(x), params["dilated"], (1, 1), "SAME", rhs_dilation=(2, 2), dimension_numbers=NHWC
    )
    x = lax.conv_general_dilated(jax.nn.relu(x), params["tall"], (2, 1), "VALID", dimension_numbers=NHWC)
    return jnp.tanh(x + params["bias"]).mean((1, 2)) @ params["head"]


def channels_first(params: Leaves, x: Array) -> Array:
    for i in range(2):
        x = lax.conv_general_dilated(x, params[f"conv_{i}"], (1, 1), "SAME") + params[f"bias_{i}"]
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(x.shape[0], -1) @ params["head"]


def autoencoder(params: Leaves, x: Array) -> Array:
    for name in ("enc_0", "enc_1"):
        x = jax.nn.relu(lax.conv_general_dilated(x, params[name], (2, 2), "SAME", dimension_numbers=NHWC))
    code = x.reshape(x.shape[0], -1) @ params["to_code"]
    x = jax.nn.relu(code @ params["from_code"] + params["bias"]).reshape(-1, 2, 2, 10)
    x = jax.nn.relu(lax.conv_transpose(x, params["dec_0"], (2, 2), "SAME", dimension_numbers=NHWC))
    return lax.conv_transpose(
        x, params["dec_1"], (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
    )


def two_heads(params: Leaves, x: Array) -> dict[str, Array]:
    trunk = jnp.tanh(lax.conv_general_dilated(x, params["trunk"], (1, 1), "SAME", dimension_numbers=NHWC))
    pooled = trunk.mean((1, 2))
    return {
        "class": jax.nn.gelu(pooled @ params["class_0"]) @ params["class_1"],
        "box": jax.nn.gelu(pooled @ params["box_0"]) @ params["box_1"],
    }


def pixel_shuffle(params: Leaves, x: Array) -> Array:
    x = lax.conv_general_dilated(x, params["conv_0"], (1, 1), "SAME", dimension_numbers=NHWC)
    batch, height, width, _ = x.shape
    x = jnp.tanh(x + params["bias"]).reshape(batch, height, width, 2, 2, 6)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, 6)
    x = lax.conv_general_dilated(x, params["conv_1"], (1, 1), "SAME", dimension_numbers=NHWC)
    return jnp.tanh(x).mean((1, 2)) @ params["head"]


IMAGES = (2, 8, 8, 3)
CASES = {
    "pooling_windows": Case(
        of_module(Pooled()),
        (4, 6, 8),
        "Windows touch pixels only; the pad count of the last average varies over pixels alone. The "
        "head reads 2 x 2 fixed pixels times 8 channels.",
        moves=(
            tie(swap(4, 0, 3), *conv_places("conv_0"), "params/conv_1/kernel@2"),
            tie(swap(6, 0, 3), *conv_places("conv_1"), "params/conv_2/kernel@2"),
            join(
                tie(swap(8, 0, 3), *conv_places("conv_2")),
                tie(tiled(swap(8, 0, 3), 4), "params/head/kernel@0"),
            ),
        ),
    ),
    "strided_dilated": Case(
        of_function(
            strided_dilated,
            {
                "strided": (3, 3, 3, 6),
                "dilated": (3, 3, 6, 8),
                "tall": (3, 2, 8, 10),
                "bias": (10,),
                "head": (10, 3),
            },
            IMAGES,
        ),
        (6, 8, 10),
        "Strides and dilations act on pixels; one group for each convolution.",
        moves=(
            tie(swap(6, 1, 4), "strided@3", "dilated@2"),
            tie(swap(8, 1, 4), "dilated@3", "tall@2"),
            tie(swap(10, 1, 4), "tall@3", "bias@0", "head@0"),
        ),
    ),
    "channels_first": Case(
        of_function(
            channels_first,
            {
                "conv_0": (4, 3, 3, 3),
                "bias_0": (4, 1, 1),
                "conv_1": (6, 4, 3, 3),
                "bias_1": (6, 1, 1),
                "head": (24, 3),
            },
            (2, 3, 8, 8),
        ),
        (4, 6),
        "Kernels are (out, in, height, width); the flattened map is 6 channels times 4 fixed pixels.",
        moves=(
            tie(swap(4, 0, 2), "conv_0@0", "bias_0@0", "conv_1@1"),
            join(
                tie(swap(6, 1, 5), "conv_1@0", "bias_1@0"),
                tie(blocked(swap(6, 1, 5), 4), "head@0"),
            ),
        ),
    ),
    "autoencoder": Case(
        of_function(
            autoencoder,
            {
                "enc_0": (3, 3, 3, 6),
                "enc_1": (3, 3, 6, 8),
                "to_code": (32, 7),
                "from_code": (7, 40),
                "bias": (40,),
                "dec_0": (3, 3, 10, 5),
                "dec_1": (3, 3, 3, 5),
            },
            IMAGES,
        ),
        (5, 6, 7, 8, 10),
        "The code is read from and written to 2 x 2 pixels times channels; pixels are fixed by the "
        "windows around them. The last kernel is (out, in), and its outputs are the image's.",
        moves=(
            join(tie(swap(8, 0, 6), "enc_1@3"), tie(tiled(swap(8, 0, 6), 4), "to_code@0")),
            tie(swap(7, 0, 6), "to_code@1", "from_code@0"),
            join(tie(tiled(swap(10, 2, 9), 4), "from_code@1", "bias@0"), tie(swap(10, 2, 9), "dec_0@2")),
            tie(swap(5, 1, 3), "dec_0@3", "dec_1@3"),
        ),
    ),
    "two_heads": Case(
        of_function(
            two_heads,
            {
                "trunk": (3, 3, 3, 8),
                "class_0": (8, 6),
                "class_1": (6, 4),
                "box_0": (8, 10),
                "box_1": (10, 4),
            },
            IMAGES,
        ),
        (6, 8, 10),
        "Both heads read the trunk's 8 channels; each has a hidden axis; both outputs are fixed.",
        moves=(
            tie(swap(8, 1, 4), "trunk@3", "class_0@0", "box_0@0"),
            tie(swap(6, 1, 4), "class_0@1", "class_1@0"),
            tie(swap(10, 1, 9), "box_0@1", "box_1@0"),
        ),
    ),
    "pixel_shuffle": Case(
        of_function(
            pixel_shuffle,
            {"conv_0": (3, 3, 3, 24), "bias": (24,), "conv_1": (3, 3, 6, 8), "head": (8, 3)},
            IMAGES,
        ),
        (6, 8),
        "The first convolution writes 2 x 2 pixels times 6 channels; the pixels land on the map, where "
        "the next window fixes them.",
        moves=(
            join(tie(tiled(swap(6, 1, 4), 4), "conv_0@3", "bias@0"), tie(swap(6, 1, 4), "conv_1@2")),
            tie(swap(8, 0, 3), "conv_1@3", "head@0"),
        ),
    ),
}
