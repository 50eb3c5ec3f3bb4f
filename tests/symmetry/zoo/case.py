"""What an entry of the zoo is, and the helpers with which its moves are written by hand."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from autofusion_jax.trees import flatten_by_path, path_str, unflatten_like
from autofusion_jax.types import ApplyFn, Params

Make: TypeAlias = Callable[[], tuple[ApplyFn, Params, Array]]

Move: TypeAlias = Mapping[str, tuple[tuple[int | None, np.ndarray], ...]]
"""Leaf path -> steps `(axis, index)`, in order: `leaf = np.take(leaf, index, axis)`.

As in `np.take`, axis None indexes the flattened leaf: such an index has the leaf's own shape.
It writes the moves that no single axis carries (see `positions`).
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """An architecture and its symmetries, derived by hand.

    Attributes:
        make: returns `apply_fn`, generic random `params`, and inputs `x`.
        sizes: the sizes of all groups, sorted.
        why: the derivation: which axes are tied and why, and what is fixed.
        nested: the sizes of the nested groups among them, sorted.
        moves: symmetric moves, at least one for each kind of group.
    """

    make: Make
    sizes: tuple[int, ...]
    why: str
    nested: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()


def of_module(module: nn.Module, x_shape: tuple[int, ...] = (2, 8, 8, 3)) -> Make:
    """Make a linen module with random variables and normal inputs."""

    def make() -> tuple[ApplyFn, Params, Array]:
        x = jax.random.normal(jax.random.key(0), x_shape)
        return module.apply, randomise(jax.eval_shape(module.init, jax.random.key(1), x)), x

    return make


def of_function(
    apply_fn: ApplyFn, shapes: Mapping[str, tuple[int, ...]], x_shape: tuple[int, ...] = (4, 5)
) -> Make:
    """Make a bare function of a flat dict of leaves with these shapes, and normal inputs."""

    def make() -> tuple[ApplyFn, Params, Array]:
        params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        return apply_fn, randomise(params), jax.random.normal(jax.random.key(0), x_shape)

    return make


def randomise(params: Params, seed: int = 0) -> Params:
    """Replace every float leaf by generic random values that keep activations of order 1.

    Variances are positive, scales scatter around 1, matrices and kernels have He's variance
    (all axes but the last counted as inputs).

    Args:
        params: arrays, or their `jax.ShapeDtypeStruct`.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        name = path_str(path).rpartition("/")[2]
        noise = rng.standard_normal(leaf.shape)
        if "var" in name:
            value = 0.5 + rng.random(leaf.shape)
        elif "embed" in name:
            value = noise
        elif len(leaf.shape) > 1:
            value = noise * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        else:
            value = (name in {"scale", "weight", "gamma"}) + 0.4 * noise
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, params)


def apply_move(params: Params, move: Move) -> Params:
    """Move the entries of the named leaves; the others stay."""
    leaves = flatten_by_path(params)
    for path, steps in move.items():
        for axis, index in steps:
            leaves[path] = jnp.asarray(np.take(np.asarray(leaves[path]), index, axis))
    return unflatten_like(params, leaves)


def swap(n: int, i: int, j: int) -> np.ndarray:
    """Index that exchanges positions i and j of n."""
    index = np.arange(n)
    index[[i, j]] = j, i
    return index


def tiled(index: np.ndarray, outer: int) -> np.ndarray:
    """The same `index` inside each of `outer` blocks: for a flattened axis `outer x n`."""
    return (np.arange(outer)[:, None] * len(index) + index).ravel()


def blocked(index: np.ndarray, inner: int) -> np.ndarray:
    """`index` on whole blocks of `inner` positions: for a flattened axis `n x inner`."""
    return (np.asarray(index)[:, None] * inner + np.arange(inner)).ravel()


def positions(*shape: int) -> np.ndarray:
    """The flat position of every entry of a leaf; rearranged, it is an index for axis None."""
    return np.arange(math.prod(shape)).reshape(shape)


def tie(index: np.ndarray, *places: str) -> Move:
    """Write one `index` at several places `path@axis`, in order."""
    move: dict[str, tuple[tuple[int | None, np.ndarray], ...]] = {}
    for place in places:
        path, _, axis = place.rpartition("@")
        move[path] = (*move.get(path, ()), (int(axis), index))
    return move


def join(*moves: Move) -> Move:
    """Carry out several moves as one; a leaf that several name takes all their steps."""
    joined: dict[str, tuple[tuple[int | None, np.ndarray], ...]] = {}
    for move in moves:
        for path, steps in move.items():
            joined[path] = (*joined.get(path, ()), *steps)
    return joined


def norm_places(name: str, kind: str = "batch") -> tuple[str, ...]:
    """The places of a linen norm layer `name` that carry its channels."""
    places = (f"params/{name}/scale@0", f"params/{name}/bias@0")
    running = (f"batch_stats/{name}/mean@0", f"batch_stats/{name}/var@0")
    return (*places, *running) if kind == "batch" else places


def conv_places(name: str) -> tuple[str, ...]:
    """The places where a linen convolution with a bias writes its channels."""
    return f"params/{name}/kernel@3", f"params/{name}/bias@0"


def dense_places(name: str) -> tuple[str, ...]:
    """The places where a linen dense layer writes its units."""
    return f"params/{name}/kernel@1", f"params/{name}/bias@0"
