"""The diagonal of the Fisher information of a network's parameters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, Num

from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.precision import rounded, wide_inexact, widened
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, Override
from autofusion_jax.trees import flatten_by_path, path_str, unflatten_like
from autofusion_jax.types import ApplyFn, Params

Leaves = dict[str, Array]
Squares = Callable[[Leaves, Any], Leaves]
"""`(leaves, (x, y, counts)) -> ` the squared gradients of a batch, by path."""

Predictions = Literal["expectation", "argmax"]
"""What stands for labels."""


@jit_by_network(static_argnames=("predictions", "batch_size"))
def diagonal_fisher(
    apply_fn: ApplyFn,
    params: Params,
    x: Array,
    y: Int[Array, " N"] | None = None,
    *,
    predictions: Predictions = "expectation",
    batch_size: int = 32,
) -> Params:
    r"""Average squared gradients of single inputs: `F = 1/N sum_i sum_c q_ic (d log p_ic / d params)^2`.

    `p_i` is the softmax of what the network says of input i, and `q_i` the label if there are any;
    otherwise `p_i` itself (`"expectation"`: the Fisher information, one backward pass for every
    class) or its largest entry (`"argmax"`, one backward pass).

    Args:
        apply_fn: the network; gives logits `[N, classes]`.
        params: its parameters.
        x: inputs `[N, ...]`.
        y: labels.
        predictions: what stands for labels where there are none.
        batch_size: how many inputs are held at once, each with gradients as large as those of the leaves
            that are no plain products of one vector for each input (`SingleInput`).

    Returns:
        The diagonal, in the structure of `params`, in float32 or wider, as all that it is made of; of
        complex leaves that of the real parts, and as imaginary part that of the imaginary parts; 0 for
        leaves that are not floats.

    Example:
        >>> apply_fn = lambda params, x: x[:, None] * params["w"]
        >>> fisher = diagonal_fisher(apply_fn, {"w": jnp.zeros(2)}, jnp.array([1.0, 3.0]))
        >>> fisher["w"].round(3).tolist()  # p (1 - p) E[x^2]
        [1.25, 1.25]
    """

    apply_fn, parts, x = _in_parts(apply_fn, params, x)
    network = SingleInput(apply_fn, parts, x[:1])

    def of_one(leaves: Leaves, single: tuple[Array, Array | None, Array]) -> tuple[Leaves, Leaves, Leaves]:
        """Squared gradients of one input: of leaves, of what products make; and squares of what they read."""
        x_i, y_i, counts = single
        kept, products = network.split(leaves)
        log_probs, pull, reads = jax.vjp(
            lambda kept, added: network(kept | products, added, x_i[None]), kept, network.zeros, has_aux=True
        )
        rows = _rows(log_probs, y_i, predictions) * counts
        start = jax.tree.map(jnp.zeros_like, (kept, network.zeros))

        def add(total: Any, row: Array) -> tuple[Any, None]:
            return jax.tree.map(lambda known, g: known + g**2, total, pull(row)), None

        return *jax.lax.scan(add, start, rows)[0], jax.tree.map(jnp.square, reads)

    def squares(leaves: Leaves, batch: Any) -> Leaves:
        each, made, reads = jax.vmap(of_one, (None, 0))(leaves, batch)
        return jax.tree.map(lambda values: jnp.sum(values, 0), each) | network.weights(reads, made)

    return _mean_over_batches(squares, params, parts, x, y, batch_size)


@jit_by_network(static_argnames=("batch_size",))
def batch_summed_fisher(apply_fn: ApplyFn, params: Params, x: Array, *, batch_size: int = 32) -> Params:
    r"""Average squared gradients of batches, as FusionBench does:

    `F = 1/N sum_b (d/d params sum_{i in b} sum_c sqrt(p_ic) log p_ic)^2`, `sqrt(p_ic)` held fixed.
    Gradients are added before they are squared, so this depends on the size of a batch and on which
    inputs are in it; at size 1 it still mixes the classes.

    Args:
        apply_fn: the network; gives logits `[N, classes]`.
        params: its parameters.
        x: inputs `[N, ...]`.
        batch_size: the size of a batch, in the order of the inputs.

    Returns:
        As `diagonal_fisher`.
    """

    apply_fn, parts, x = _in_parts(apply_fn, params, x)

    def squares(leaves: Leaves, batch: Any) -> Leaves:
        inputs, _, counts = batch

        def total(free: Leaves) -> Float[Array, ""]:
            log_probs = _log_probs(apply_fn, parts, free, inputs)
            roots = jax.lax.stop_gradient(jnp.exp(log_probs / 2))
            return jnp.sum(counts[:, None] * roots * log_probs)

        return jax.tree.map(jnp.square, jax.grad(total)(leaves))

    return _mean_over_batches(squares, params, parts, x, None, batch_size)


@jit_by_network(static_argnames=("batch_size",))
def gaussian_fisher(
    apply_fn: ApplyFn, params: Params, x: Array, key: Key[Array, ""], *, batch_size: int = 32
) -> Params:
    r"""Average squared gradients of outputs that are no classes: images, features, other numbers.

    They are taken for the mean of a Gaussian of unit variance, so that `F = 1/N sum_i sum_o (d f_io /
    d params)^2` over the inputs i and outputs o. The inner sum is estimated without bias by one
    backward pass for each input, of the outputs added up with random signs.

    Args:
        apply_fn: the network; gives `[N, ...]`.
        params: its parameters.
        x: inputs `[N, ...]`.
        key: draws the signs.
        batch_size: as in `diagonal_fisher`.

    Returns:
        As `diagonal_fisher`, for `fisher(fishers=...)`. Between networks of other outputs the scale
        says nothing: `normalize=True`.

    Example:
        >>> apply_fn = lambda params, x: x[:, None] * params["w"]
        >>> known = gaussian_fisher(apply_fn, {"w": jnp.zeros(2)}, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> known["w"].tolist()  # E[x^2]
        [5.0, 5.0]
    """

    apply_fn, parts, x = _in_parts(apply_fn, params, x)

    def of_one(leaves: Leaves, single: tuple[Array, Array, Array]) -> Leaves:
        x_i, key_i, counts = single

        def signed(free: Leaves) -> Float[Array, ""]:
            outputs = apply_fn(unflatten_like(parts, flatten_by_path(parts) | free), x_i[None])
            return jnp.sum(outputs * jax.random.rademacher(key_i, outputs.shape, outputs.dtype))

        return jax.tree.map(lambda g: counts * g**2, jax.grad(signed)(leaves))

    def squares(leaves: Leaves, batch: Any) -> Leaves:
        return jax.tree.map(lambda values: jnp.sum(values, 0), jax.vmap(of_one, (None, 0))(leaves, batch))

    return _mean_over_batches(squares, params, parts, x, jax.random.split(key, len(x)), batch_size)


@dataclasses.dataclass(frozen=True)
class _InParts:
    """A network in single precision or better, which takes complex leaves as their parts `[..., 2]`."""

    apply_fn: ApplyFn
    is_complex: frozenset[str]

    def __call__(self, parts: Params, x: Array) -> Array:
        def leaf(path: Any, values: Array) -> Array:
            whole = path_str(path) in self.is_complex
            return jax.lax.complex(values[..., 0], values[..., 1]) if whole else values

        return widened(self.apply_fn(jax.tree_util.tree_map_with_path(leaf, parts), x))


def _in_parts(apply_fn: ApplyFn, params: Params, x: Array) -> tuple[ApplyFn, Params, Array]:
    """A network, its parameters and its inputs, so that gradients of every leaf are real and wide."""
    is_complex = frozenset(
        path
        for path, leaf in flatten_by_path(params).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)
    )
    wide = widened(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return _InParts(apply_fn, is_complex), jax.tree.map(widened, params), wide


def _log_probs(apply_fn: ApplyFn, params: Params, free: Leaves, x: Array) -> Float[Array, "N classes"]:
    """What a network says, with some of its leaves replaced."""
    whole = unflatten_like(params, flatten_by_path(params) | free)
    return jax.nn.log_softmax(apply_fn(whole, x))


def _rows(
    log_probs: Float[Array, " classes"], y: Array | None, predictions: str
) -> Float[Array, "rows classes"]:
    """The directions in which the log probabilities are differentiated: their squares add up to F."""
    num = log_probs.shape[-1]
    if y is None and predictions == "expectation":
        return jnp.diag(jnp.exp(log_probs / 2))
    return jax.nn.one_hot(jnp.argmax(log_probs) if y is None else y, num)[None]


def _mean_over_batches(
    squares: Squares, params: Params, parts: Params, x: Array, y: Array | None, batch_size: int
) -> Params:
    """Sum over batches in one loop, divided by the number of inputs; in the structure of `params`."""
    num, size = len(x), min(batch_size, len(x))
    order = jnp.arange(num + -num % size)
    counts = (order < num).astype(jnp.float32)
    batches = jax.tree.map(
        lambda values: values.reshape(-1, size, *values.shape[1:]),
        (x[order % num], None if y is None else y[order % num], counts),
    )
    leaves = {
        path: leaf for path, leaf in flatten_by_path(parts).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }

    def add(total: Leaves, batch: Any) -> tuple[Leaves, None]:
        return jax.tree.map(jnp.add, total, squares(leaves, batch)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, leaves), batches)

    def given(path: Any, leaf: Array) -> Array:
        found = total.get(path_str(path))
        return jnp.zeros(jnp.shape(leaf)) if found is None else rounded(found / num, wide_inexact(leaf.dtype))

    return jax.tree_util.tree_map_with_path(given, params)


class SingleInput:
    """A network of one input, whose products with a vector need no gradient of the weight.

    Where a weight multiplies one vector z and makes v, the gradient is the outer product of z and dL/dv,
    and its square that of the squares: over many inputs and classes one matrix product, in which no
    gradient as large as the weight is ever made for a single input.
    """

    def __init__(self, apply_fn: ApplyFn, params: Params, x: Num[Array, "1 ..."]) -> None:
        self._params = params
        self._program = FlatProgram(
            trace_program(apply_fn, params, x, caller="fisher"), keep_derivatives=True
        )
        self._linear = LinearLayers(self._program, params, raw_inputs=True)
        self._layers = [layer for layer in self._linear.layers if self._is_real_vector(layer)]
        self._read = [
            self._program.equations[layer.equation].inputs[layer.product.live] for layer in self._layers
        ]
        self._raw = [self._program.rename(layer.made) for layer in self._layers]
        self.zeros = {
            layer.weight: jnp.zeros(layer.product.made_shape, self._made_dtype(layer))
            for layer in self._layers
        }

    def _made_dtype(self, layer: LinearLayer) -> np.dtype:
        return self._program.equations[layer.equation].eqn.outvars[0].aval.dtype

    def _is_real_vector(self, layer: LinearLayer) -> bool:
        """Whether a layer reads one vector for each input, and no complex one."""
        return layer.product.num_samples == 1 and jnp.issubdtype(self._made_dtype(layer), jnp.floating)

    def split(self, leaves: Leaves) -> tuple[Leaves, Leaves]:
        """The leaves whose gradients are needed, and the weights of products."""
        kept = {path: leaf for path, leaf in leaves.items() if path not in self.zeros}
        return kept, {path: leaves[path] for path in self.zeros}

    def __call__(
        self, leaves: Leaves, added: Leaves, x: Num[Array, "1 ..."]
    ) -> tuple[Float[Array, " classes"], Leaves]:
        """Log probabilities, if `added` is added to what products make; and what the products read."""
        program = self._program
        overrides = {
            layer.made: Override((raw,), functools.partial(jnp.add, added[layer.weight]))
            for layer, raw in zip(self._layers, self._raw)
        }
        whole = unflatten_like(self._params, flatten_by_path(self._params) | leaves)
        (logits, *reads) = program.evaluate(
            [*program.outputs, *self._read], program.values(whole, x), overrides
        )
        return jax.nn.log_softmax(logits[0]), dict(zip(self.zeros, reads))

    def weights(self, reads: Leaves, made: Leaves) -> Leaves:
        """Squared gradients of weights, added up, from squares `[N, ...]` of what is read and of dL/dv."""
        found = {}
        for layer in self._layers:
            z, g = reads[layer.weight], made[layer.weight]
            z, g = jax.vmap(layer.product.read)(z)[:, 0], jax.vmap(layer.product.made)(g)[:, 0]
            found[layer.weight] = self._linear.weight(layer, jnp.einsum("nbc,nbf->bcf", z, g))
        return found
