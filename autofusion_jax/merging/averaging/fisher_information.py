"""The diagonal of the Fisher information of a network's parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, Num

from autofusion_jax.merging.regression.linear_layers import LinearLayers
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, Override
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import unknown_name

Leaves = dict[str, Array]
Squares = Callable[[Leaves, Any], Leaves]
"""`(leaves, (x, y, counts)) -> ` the squared gradients of a batch, by path."""

PREDICTIONS = ("expectation", "argmax")


def check_predictions(caller: str, name: str) -> None:
    """Raise ValueError unless `name` says what stands for labels: a member of `PREDICTIONS`."""
    if name not in PREDICTIONS:
        raise unknown_name(caller, "predictions", name, PREDICTIONS)


@functools.partial(jax.jit, static_argnames=("apply_fn", "predictions", "batch_size"))
def diagonal_fisher(
    apply_fn: ApplyFn,
    params: Params,
    x: Array,
    y: Int[Array, " N"] | None = None,
    *,
    predictions: str = "expectation",
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
        The diagonal, in the structure of `params`; 0 for leaves that are not floats.

    Example:
        >>> apply_fn = lambda params, x: x[:, None] * params["w"]
        >>> fisher = diagonal_fisher(apply_fn, {"w": jnp.zeros(2)}, jnp.array([1.0, 3.0]))
        >>> fisher["w"].round(3).tolist()  # p (1 - p) E[x^2]
        [1.25, 1.25]
    """

    network = SingleInput(apply_fn, params, x[:1])

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

    return _mean_over_batches(squares, params, x, y, batch_size)


@functools.partial(jax.jit, static_argnames=("apply_fn", "batch_size"))
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

    def squares(leaves: Leaves, batch: Any) -> Leaves:
        inputs, _, counts = batch

        def total(free: Leaves) -> Float[Array, ""]:
            log_probs = _log_probs(apply_fn, params, free, inputs)
            roots = jax.lax.stop_gradient(jnp.exp(log_probs / 2))
            return jnp.sum(counts[:, None] * roots * log_probs)

        return jax.tree.map(jnp.square, jax.grad(total)(leaves))

    return _mean_over_batches(squares, params, x, None, batch_size)


@functools.partial(jax.jit, static_argnames=("apply_fn", "batch_size"))
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

    def of_one(leaves: Leaves, single: tuple[Array, Array, Array]) -> Leaves:
        x_i, key_i, counts = single

        def signed(free: Leaves) -> Float[Array, ""]:
            whole = unflatten_like(params, flatten_by_path(params) | free)
            outputs = apply_fn(whole, x_i[None]).astype(jnp.float32)
            return jnp.sum(outputs * jax.random.rademacher(key_i, outputs.shape, jnp.float32))

        return jax.tree.map(lambda g: counts * g**2, jax.grad(signed)(leaves))

    def squares(leaves: Leaves, batch: Any) -> Leaves:
        return jax.tree.map(lambda values: jnp.sum(values, 0), jax.vmap(of_one, (None, 0))(leaves, batch))

    return _mean_over_batches(squares, params, x, jax.random.split(key, len(x)), batch_size)


def _log_probs(apply_fn: ApplyFn, params: Params, free: Leaves, x: Array) -> Float[Array, "N classes"]:
    """What a network says, with some of its leaves replaced."""
    whole = unflatten_like(params, flatten_by_path(params) | free)
    return jax.nn.log_softmax(apply_fn(whole, x).astype(jnp.float32))


def _rows(
    log_probs: Float[Array, " classes"], y: Array | None, predictions: str
) -> Float[Array, "rows classes"]:
    """The directions in which the log probabilities are differentiated: their squares add up to F."""
    num = log_probs.shape[-1]
    if y is None and predictions == "expectation":
        return jnp.diag(jnp.exp(log_probs / 2))
    return jax.nn.one_hot(jnp.argmax(log_probs) if y is None else y, num)[None]


def _mean_over_batches(
    squares: Squares, params: Params, x: Array, y: Array | None, batch_size: int
) -> Params:
    """Sum over batches in one loop, divided by the number of inputs."""
    num, size = len(x), min(batch_size, len(x))
    order = jnp.arange(num + -num % size)
    counts = (order < num).astype(jnp.float32)
    batches = jax.tree.map(
        lambda values: values.reshape(-1, size, *values.shape[1:]),
        (x[order % num], None if y is None else y[order % num], counts),
    )
    leaves = {
        path: jnp.asarray(leaf)
        for path, leaf in flatten_by_path(params).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    }
    leaves = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), leaves)

    def add(total: Leaves, batch: Any) -> tuple[Leaves, None]:
        return jax.tree.map(jnp.add, total, squares(leaves, batch)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, leaves), batches)
    zeros = {path: jnp.zeros(jnp.shape(leaf)) for path, leaf in flatten_by_path(params).items()}
    return unflatten_like(params, zeros | {path: value / num for path, value in total.items()})


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
        self._layers = [layer for layer in self._linear.layers if layer.product.num_samples == 1]
        self._read = [
            self._program.equations[layer.equation].inputs[layer.product.live] for layer in self._layers
        ]
        self._raw = [self._program.rename(layer.made) for layer in self._layers]
        self.zeros = {layer.weight: jnp.zeros(layer.product.made_shape) for layer in self._layers}

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
        return jax.nn.log_softmax(logits[0].astype(jnp.float32)), dict(zip(self.zeros, reads))

    def weights(self, reads: Leaves, made: Leaves) -> Leaves:
        """Squared gradients of weights, added up, from squares `[N, ...]` of what is read and of dL/dv."""
        found = {}
        for layer in self._layers:
            z, g = reads[layer.weight], made[layer.weight]
            z, g = jax.vmap(layer.product.read)(z)[:, 0], jax.vmap(layer.product.made)(g)[:, 0]
            found[layer.weight] = self._linear.weight(layer, jnp.einsum("nbc,nbf->bcf", z, g))
        return found
