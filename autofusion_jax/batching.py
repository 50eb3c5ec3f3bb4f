"""Running networks over many inputs, and many networks in one program."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from autofusion_jax.partition import split
from autofusion_jax.programs import jit_by_network
from autofusion_jax.types import ApplyFn, Params

T = TypeVar("T")


def batch_models(fn: Callable[..., T], *, unroll: bool) -> Callable[..., T]:
    """Map `fn` over the leading axis of all its arguments, as one program.

    Args:
        fn: a function of pytrees of arrays.
        unroll: write the k calls out one after another instead of `jax.vmap`.

    Returns:
        A function of pytrees whose leaves have a leading axis `[k]`.
    """
    # one batched operation for each of the network's, whatever k is
    if not unroll:
        return jax.vmap(fn)

    def unrolled(*args: Any) -> T:
        # the program grows k-fold, and so does compilation: worth it only where vmap is slow
        k = len(jax.tree.leaves(args)[0])
        outs = [fn(*jax.tree.map(operator.itemgetter(i), args)) for i in range(k)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)

    return unrolled


def prefers_unrolling(apply_fn: ApplyFn, params: Params, x: jax.Array) -> bool:
    """Tell whether k copies of a model with different weights run faster unrolled than vmapped.

    Under vmap, convolutions with different weights become grouped convolutions, which XLA runs
    slowly on CPU (measured: docs/performance.md). Everywhere else vmap is right.
    """
    if jax.default_backend() != "cpu":
        return False
    # the text of a jaxpr has those inside of it, so convolutions in scans and calls are found as well
    return "conv_general_dilated" in str(jax.make_jaxpr(apply_fn)(params, x))


def predict(apply_fn: ApplyFn, params: Params, x: jax.Array, *, batch_size: int = 500) -> jax.Array:
    """Run a network over any number of inputs in batches, as one program.

    Args:
        apply_fn: the network.
        params: its parameters.
        x: inputs `[N, ...]`; the last batch is padded with zeros, its outputs cut off.
        batch_size: how many inputs are held as activations at once.

    Returns:
        Outputs `[N, ...]`.
    """
    numbers, rest = split(params)
    return _predict(rest.bind(apply_fn), numbers, x, batch_size=batch_size)


@jit_by_network(static_argnames=("batch_size",))
def _predict(apply_fn: ApplyFn, params: Params, x: jax.Array, *, batch_size: int) -> jax.Array:
    num = x.shape[0]
    # fewer inputs than a batch are not padded up to one
    size = min(batch_size, num)
    padding = -num % size
    # whole batches, as `lax.map` compiles one body for one shape; examples do not see each other
    padded = jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))
    # one batch of activations at a time, where vmap would hold all of them
    outputs = jax.lax.map(lambda part: apply_fn(params, part), padded.reshape(-1, size, *x.shape[1:]))
    return outputs.reshape(num + padding, *outputs.shape[2:])[:num]
