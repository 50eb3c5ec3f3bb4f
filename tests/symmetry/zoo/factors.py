"""Axes made of several factors: what reshaping, slicing and grouping leave of the symmetry."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax

from tests.symmetry.zoo.case import Case, blocked, join, of_function, positions, swap, tie, tiled

NHWC = ("NHWC", "HWIO", "NHWC")
Leaves = Mapping[str, Array]


def channel_shuffle(params: Leaves, x: Array) -> Array:
    """Two convolutions in 2 groups; between them 2 x 4 channels are reread as 4 x 2."""
    x = jnp.tanh(lax.conv_general_dilated(x, params["stem"], (1, 1), "SAME", dimension_numbers=NHWC))
    for name in ("first", "second"):
        x = lax.conv_general_dilated(
            x, params[name], (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2
        )
        if name == "first":
            x = jnp.tanh(x * params["scale"] + params["bias"])
            x = x.reshape(*x.shape[:3], 2, 4).swapaxes(-1, -2).reshape(x.shape)
    return jnp.tanh(x).mean((1, 2)) @ params["head"]


def reshape_no_op(params: Leaves, x: Array) -> Array:
    h = (x @ params["up"]).reshape(-1, 4, 6)
    return jax.nn.relu(h + params["bias"]).reshape(-1, 24) @ params["down"]


def shared_rows(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"] + params["bias"]).reshape(-1, 4, 6)
    return jnp.tanh(h @ params["shared"]).mean(1) @ params["head"]


def maxout(params: Leaves, x: Array) -> Array:
    return (x @ params["up"] + params["bias"]).reshape(-1, 12, 2).max(-1) @ params["down"]


def nested_twice(params: Leaves, x: Array) -> Array:
    h = jax.nn.softmax((x @ params["up"] + params["bias"]).reshape(-1, 2, 3, 4), axis=-1)
    h = h / jnp.sqrt((jnp.exp(3 * h) - 1).sum((2, 3), keepdims=True))
    return h.reshape(-1, 24) @ params["down"]


def glu(params: Leaves, x: Array) -> Array:
    value, gate = jnp.split(x @ params["up"] + params["bias"], 2, axis=-1)
    return (value * jax.nn.sigmoid(gate)) @ params["down"]


def glu_interleaved(params: Leaves, x: Array) -> Array:
    h = x @ params["up"] + params["bias"]
    return (h[:, ::2] * jax.nn.sigmoid(h[:, 1::2])) @ params["down"]


def two_slices(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"] + params["bias"])
    return jnp.tanh(h[:, :6] @ params["first"]) + h[:, 6:] @ params["second"]


def overlapping_slices(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"] + params["bias"])
    return jnp.tanh(h[:, :10] @ params["first"]) + h[:, 6:] @ params["second"]


def outer_product(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"] + params["bias"])
    return (h[:, :, None] * h[:, None, :]).reshape(-1, 36) @ params["down"]


SHUFFLE_IN = positions(3, 3, 4, 8)  # the inputs 0 and 3 of the first convolution's group 0
SHUFFLE_IN[..., :4] = SHUFFLE_IN[:, :, swap(4, 0, 3), :4]
SHUFFLE_CELL = positions(3, 3, 4, 6)  # what the second's group 0 reads from the first's group 1
SHUFFLE_CELL[..., :3] = SHUFFLE_CELL[:, :, swap(4, 1, 3), :3]
MIDDLE = ("first@3", "scale@0", "bias@0")

CASES = {
    "channel_shuffle": Case(
        of_function(
            channel_shuffle,
            {
                "stem": (3, 3, 3, 8),
                "first": (3, 3, 4, 8),
                "scale": (8,),
                "bias": (8,),
                "second": (3, 3, 4, 6),
                "head": (6, 3),
            },
            (2, 8, 8, 3),
        ),
        (2, 2, 2, 3, 4),
        "The middle axis is g x c x d = 2 x 2 x 2: g the first convolution's groups, c the second's "
        "(after the shuffle, (c d) x g), d what one group sends to one other. So: g, with 4 inputs "
        "nested in it; c, with 3 outputs nested in it; d nested in both.",
        nested=(2, 3, 4),
        moves=(
            join(  # g
                tie(blocked(swap(2, 0, 1), 4), *MIDDLE, "stem@3"),
                tie(tiled(swap(2, 0, 1), 2), "second@2"),
            ),
            join(  # c
                tie(tiled(blocked(swap(2, 0, 1), 2), 2), *MIDDLE),
                tie(blocked(swap(2, 0, 1), 3), "second@3", "head@0"),
            ),
            join(tie(swap(8, 4, 5), *MIDDLE), {"second": ((None, SHUFFLE_CELL),)}),  # d at g=1, c=0
            join(tie(swap(8, 0, 3), "stem@3"), {"first": ((None, SHUFFLE_IN),)}),
            tie(swap(6, 3, 5), "second@3", "head@0"),
        ),
    ),
    "reshape_no_op": Case(
        of_function(reshape_no_op, {"up": (5, 24), "bias": (4, 6), "down": (24, 3)}),
        (24,),
        "The factors 4 and 6 stand side by side wherever they stand, with only elementwise "
        "operations between: one group of 24, which in the bias takes two axes.",
        moves=(
            join(
                tie(swap(24, 0, 7), "up@1", "down@0"),
                {"bias": ((None, swap(24, 0, 7).reshape(4, 6)),)},
            ),
        ),
    ),
    "shared_rows": Case(
        of_function(shared_rows, {"up": (5, 24), "bias": (24,), "shared": (6, 8), "head": (8, 3)}),
        (4, 6, 8),
        "One matrix reads all 4 rows, so the 6 columns move alike in all of them: not nested. The "
        "mean over rows lets these permute as well. Then 8 hidden units.",
        moves=(
            tie(blocked(swap(4, 0, 2), 6), "up@1", "bias@0"),
            join(tie(tiled(swap(6, 1, 2), 4), "up@1", "bias@0"), tie(swap(6, 1, 2), "shared@0")),
            tie(swap(8, 1, 2), "shared@1", "head@0"),
        ),
    ),
    "maxout": Case(
        of_function(maxout, {"up": (5, 24), "bias": (24,), "down": (12, 3)}),
        (2, 12),
        "The maximum is symmetric in its 2 arguments, for each of the 12 units on its own.",
        nested=(2,),
        moves=(
            join(tie(blocked(swap(12, 0, 7), 2), "up@1", "bias@0"), tie(swap(12, 0, 7), "down@0")),
            tie(swap(24, 4, 5), "up@1", "bias@0"),
        ),
    ),
    "nested_twice": Case(
        of_function(nested_twice, {"up": (5, 24), "bias": (24,), "down": (24, 3)}),
        (2, 3, 4),
        "A softmax over 4 units, a norm over 3 x 4 of them, twice side by side: the 3 softmaxes "
        "permute within each norm, the 4 units within each softmax.",
        nested=(3, 4),
        moves=(
            tie(blocked(swap(2, 0, 1), 12), "up@1", "bias@0", "down@0"),
            tie(blocked(swap(6, 3, 5), 4), "up@1", "bias@0", "down@0"),
            tie(swap(24, 8, 11), "up@1", "bias@0", "down@0"),
        ),
    ),
    "glu": Case(
        of_function(glu, {"up": (5, 16), "bias": (16,), "down": (8, 3)}),
        (8,),
        "Value and gate of a unit are multiplied: the two halves of the axis are one group of 8.",
        moves=(join(tie(tiled(swap(8, 0, 5), 2), "up@1", "bias@0"), tie(swap(8, 0, 5), "down@0")),),
    ),
    "glu_interleaved": Case(
        of_function(glu_interleaved, {"up": (5, 16), "bias": (16,), "down": (8, 3)}),
        (8,),
        "Even positions are values, odd ones gates: the axis is 8 units times 2 fixed positions.",
        moves=(join(tie(blocked(swap(8, 0, 5), 2), "up@1", "bias@0"), tie(swap(8, 0, 5), "down@0")),),
    ),
    "two_slices": Case(
        of_function(two_slices, {"up": (5, 16), "bias": (16,), "first": (6, 3), "second": (10, 3)}),
        (6, 10),
        "The slices have readers of their own: two groups on one axis.",
        moves=(
            tie(swap(16, 1, 5), "up@1", "bias@0") | tie(swap(6, 1, 5), "first@0"),
            tie(swap(16, 7, 15), "up@1", "bias@0") | tie(swap(10, 1, 9), "second@0"),
        ),
    ),
    "overlapping_slices": Case(
        of_function(overlapping_slices, {"up": (5, 16), "bias": (16,), "first": (10, 3), "second": (10, 3)}),
        (4, 6, 6),
        "6 units have only the first reader, 6 only the second, and the 4 in the middle both.",
        moves=(
            tie(swap(16, 0, 5), "up@1", "bias@0") | tie(swap(10, 0, 5), "first@0"),
            tie(swap(16, 10, 15), "up@1", "bias@0") | tie(swap(10, 4, 9), "second@0"),
            join(
                tie(swap(16, 6, 9), "up@1", "bias@0"),
                tie(swap(10, 6, 9), "first@0"),
                tie(swap(10, 0, 3), "second@0"),
            ),
        ),
    ),
    "outer_product": Case(
        of_function(outer_product, {"up": (5, 6), "bias": (6,), "down": (36, 3)}),
        (6,),
        "All products of two units: the reader's axis is the group of 6 times itself.",
        moves=(
            join(
                tie(swap(6, 1, 4), "up@1", "bias@0"),
                tie(tiled(swap(6, 1, 4), 6), "down@0"),
                tie(blocked(swap(6, 1, 4), 6), "down@0"),
            ),
        ),
    ),
}
