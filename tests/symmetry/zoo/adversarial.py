"""Hidden axes that look free and are not, or the other way round."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tests.symmetry.zoo.case import Case, of_function, swap, tie

Leaves = Mapping[str, Array]


def transposed_sum(params: Leaves, x: Array) -> Array:
    h = x @ params["up"]
    return jnp.tanh(h + h.reshape(-1, 4, 6).swapaxes(1, 2).reshape(-1, 24)) @ params["down"]


def rolled_sum(params: Leaves, x: Array) -> Array:
    h = x @ params["up"]
    return jnp.tanh(h + jnp.roll(h, 1, axis=-1)) @ params["down"]


def scaled_by_position(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"])
    return (h * jnp.linspace(0.5, 2.0, h.shape[-1])) @ params["down"]


def scaled_alike(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"])
    return (h * np.full(8, 0.5, np.float32) + jnp.ones(8)) @ params["down"]


def cumulated(params: Leaves, x: Array) -> Array:
    return jnp.tanh(jnp.cumsum(x @ params["up"], axis=-1)) @ params["down"]


def sorted_units(params: Leaves, x: Array) -> Array:
    return jnp.sort(x @ params["up"] + params["bias"], axis=-1)[:, 3:11] @ params["down"]


def softmax_units(params: Leaves, x: Array) -> Array:
    return jax.nn.softmax(x @ params["up"] + params["bias"]) @ params["down"]


def argmax_reported(params: Leaves, x: Array) -> Array:
    h = x @ params["up"]
    return h @ params["down"] + jnp.argmax(h, axis=-1)[:, None]


def both_ways(params: Leaves, x: Array) -> Array:
    return jnp.tanh(x @ params["w"]) @ params["a"] + jnp.tanh(x @ params["w"].T) @ params["b"]


def square_twice(params: Leaves, x: Array) -> Array:
    return jnp.tanh(jnp.tanh(x @ params["w"]) @ params["w"]) @ params["down"]


def square_on_hidden(params: Leaves, x: Array) -> Array:
    h = jnp.tanh(x @ params["up"])
    for _ in range(2):
        h = jnp.tanh(h @ params["w"] + params["bias"]) + h @ params["w"].T
    return h @ params["down"]


def tied_autoencoder(params: Leaves, x: Array) -> Array:
    return jnp.tanh(x @ params["w"] + params["bias"]) @ params["w"].T


def unused_leaf(params: Leaves, x: Array) -> Array:
    return jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"]


CASES = {
    "transposed_sum": Case(
        of_function(transposed_sum, {"up": (5, 24), "down": (24, 3)}),
        (),
        "4 x 6 and 6 x 4 have no common refinement, so no factor is free. (The transposition fixes the "
        "positions 0 and 23; exchanging these two is a symmetry, but not one of a whole factor.)",
    ),
    "rolled_sum": Case(
        of_function(rolled_sum, {"up": (5, 7), "down": (7, 3)}),
        (),
        "Each unit is added to its neighbour: only rotations are left, and those of 7 hold no exchange.",
    ),
    "scaled_by_position": Case(
        of_function(scaled_by_position, {"up": (5, 8), "down": (8, 3)}),
        (),
        "A constant that differs from unit to unit fixes them all.",
    ),
    "scaled_alike": Case(
        of_function(scaled_alike, {"up": (5, 8), "down": (8, 3)}),
        (8,),
        "Constants along the axis that are the same for all units fix none.",
        moves=(tie(swap(8, 0, 6), "up@1", "down@0"),),
    ),
    "cumulated": Case(
        of_function(cumulated, {"up": (5, 8), "down": (8, 3)}),
        (),
        "Every unit sees all units before it: the order matters.",
    ),
    "sorted_units": Case(
        of_function(sorted_units, {"up": (5, 16), "bias": (16,), "down": (8, 3)}),
        (16,),
        "The sorted values stay where they are, and so does their reader; the 16 units that are sorted "
        "may come in any order.",
        moves=(tie(swap(16, 2, 13), "up@1", "bias@0"),),
    ),
    "softmax_units": Case(
        of_function(softmax_units, {"up": (5, 8), "bias": (8,), "down": (8, 3)}),
        (8,),
        "A softmax over the hidden axis is symmetric in its units.",
        moves=(tie(swap(8, 1, 7), "up@1", "bias@0", "down@0"),),
    ),
    "argmax_reported": Case(
        of_function(argmax_reported, {"up": (5, 8), "down": (8, 3)}),
        (),
        "The output tells which unit is largest.",
    ),
    "both_ways": Case(
        of_function(both_ways, {"w": (5, 5), "a": (5, 3), "b": (5, 3)}),
        (),
        "Both axes of the matrix read the inputs, so both are fixed.",
    ),
    "square_twice": Case(
        of_function(square_twice, {"w": (5, 5), "down": (5, 3)}),
        (),
        "The hidden units are read by the axis that also reads the inputs.",
    ),
    "square_on_hidden": Case(
        of_function(square_on_hidden, {"up": (5, 8), "w": (8, 8), "bias": (8,), "down": (8, 3)}),
        (8,),
        "Both axes of the square matrix carry the one hidden group.",
        moves=(tie(swap(8, 1, 7), "up@1", "w@0", "w@1", "bias@0", "down@0"),),
    ),
    "tied_autoencoder": Case(
        of_function(tied_autoencoder, {"w": (5, 8), "bias": (8,)}),
        (8,),
        "The matrix is used twice, each time with its second axis on the hidden units.",
        moves=(tie(swap(8, 1, 7), "w@1", "bias@0"),),
    ),
    "unused_leaf": Case(
        of_function(unused_leaf, {"up": (5, 6), "bias": (6,), "down": (6, 3), "unused": (6, 6)}),
        (6,),
        "A leaf that nothing reads carries no hidden units.",
        moves=(tie(swap(6, 1, 4), "up@1", "bias@0", "down@0"),),
    ),
}
