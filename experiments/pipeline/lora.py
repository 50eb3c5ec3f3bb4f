"""Low-rank adapters (LoRA): what fine-tuning buys with few learned numbers, for any network."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key, Num

from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Adapters = dict[str, dict[str, Array]]
"""Path of a kernel -> its factors `"down"` `[rows, rank]` and `"up"` `[rank, columns]`."""


def init_adapters(params: Params, *, rank: int = 4, key: Key[Array, ""]) -> Adapters:
    """Draw adapters that change nothing yet: Gaussian `down`, zero `up`.

    Every float leaf of two axes or more gets one: its last axis makes the columns of a matrix, all
    others (the window and the input channels of a convolution) the rows.

    Args:
        params: parameters of the network.
        rank: of each change, >= 1.
        key: decides `down`, drawn with variance `1 / rows`.

    Raises:
        ValueError: rank out of range.

    References:
        Hu et al.: LoRA: Low-rank adaptation of large language models, ICLR 2022, Sec. 4.1.
    """
    require(rank >= 1, "init_adapters", "rank", ">= 1", rank)
    adapters = {}
    for number, (path, leaf) in enumerate(flatten_by_path(params).items()):
        if np.ndim(leaf) >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating):
            *rows, columns = leaf.shape
            size = math.prod(rows)
            down = jax.random.normal(jax.random.fold_in(key, number), (size, rank), leaf.dtype)
            adapters[path] = {"down": down / math.sqrt(size), "up": jnp.zeros((rank, columns), leaf.dtype)}
    return adapters


def with_adapters(params: Params, adapters: Adapters) -> Params:
    """Add the changes to the kernels: `W + down @ up`.

    Example:
        >>> kernel, factors = jnp.zeros((2, 2)), {"down": jnp.ones((2, 1)), "up": jnp.array([[1.0, 2.0]])}
        >>> print(with_adapters({"w": kernel}, {"w": factors})["w"])
        [[1. 2.]
         [1. 2.]]
    """
    leaves = flatten_by_path(params)
    changed = {
        path: leaves[path] + (factors["down"] @ factors["up"]).reshape(leaves[path].shape)
        for path, factors in adapters.items()
    }
    return unflatten_like(params, leaves | changed)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A network with adapters, as `apply_fn({"base": params, "adapters": adapters}, x)`."""

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Num[Array, "batch ..."]) -> Array:
        """The outputs, all kernels changed by their adapters."""
        return self.apply_fn(with_adapters(params["base"], params["adapters"]), x)
