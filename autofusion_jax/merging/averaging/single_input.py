"""Gradients of a network of one input, without those of weights that multiply one vector."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from autofusion_jax.merging.regression.linear_layers import LinearLayers
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, Override
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import ApplyFn, Params

Leaves = dict[str, Array]


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
        with jax.ensure_compile_time_eval():
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
