"""The linear layers of a traced network: a weight, what it reads, and the bias that is added."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.regression.layer_statistics import Product, product
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.affine import MOVES, AffineReader
from autofusion_jax.symmetry.program import Equation, FlatProgram, Override
from autofusion_jax.symmetry.trace import Path
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params

SUMS = frozenset(("add", "add_any"))


@dataclasses.dataclass(frozen=True)
class Sum:
    """Where a leaf is added: its path, and the numbers of what it is added to and of what is added."""

    leaf: str
    value: int
    added: int


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """A weight leaf that is used once, in a product with an activation.

    Attributes:
        weight: path of the leaf.
        equation: where in the program the product is.
        product: the product.
        made: number of what it makes.
        operand: number of the leaf as it stands in the product.
        bias: the leaf that is added and could add any `[B, F]` to all samples; None if there is none.
    """

    weight: str
    equation: Path
    product: Product
    made: int
    operand: int
    bias: Sum | None


class LinearLayers:
    """Finds the linear layers of a program, and changes their leaves.

    Left out are weights that are used more than once or not as they are, and, unless asked for,
    those that read the inputs with nothing learned in between.

    Attributes:
        layers: the layers, in the order of the program.
    """

    def __init__(self, program: FlatProgram, params: Params, *, raw_inputs: bool = False) -> None:
        """Read a program.

        Args:
            program: the program.
            params: the parameters that it takes, arrays or shapes.
            raw_inputs: take also weights that read the inputs with nothing learned in between.
        """
        self._program = program
        self._shapes = {path: jax.typeof(leaf) for path, leaf in flatten_by_path(params).items()}
        self._reader = AffineReader(program)
        self._users: dict[int, list[Equation]] = {}
        self._uses = dict.fromkeys(program.leaves, 0)
        self._learned = {*program.leaves.values(), *(program.inputs if raw_inputs else ())}
        for equation in program.equations.values():
            if self._learned.intersection(equation.inputs):
                self._learned.update(equation.outputs)
            for number in set(equation.inputs):
                self._users.setdefault(number, []).append(equation)
                path = None if equation.name in MOVES else self._reader.leaf(number)
                if path:
                    self._uses[path] += 1
        found = (self._find(path, equation) for path, equation in program.equations.items())
        layers = [layer for layer in found if layer is not None]
        fits = jax.jit(lambda: [self._bias_fits(layer) for layer in layers])()
        self.layers = tuple(
            layer if fit else dataclasses.replace(layer, bias=None) for layer, fit in zip(layers, fits)
        )

    def _find(self, path: Path, equation: Equation) -> LinearLayer | None:
        operands = self._reader.split(equation) if len(equation.inputs) == 2 else None
        if operands is None or operands[0] not in self._learned or operands[1] is None:
            return None
        seen = product(equation.eqn, equation.inputs.index(operands[0]))
        weight = self._reader.leaf(operands[1])
        if seen is None or weight is None or self._uses[weight] > 1 or not self._is_float(weight):
            return None
        if math.prod(seen.weight_shape) != self._shapes[weight].size:  # it is repeated
            return None
        made = equation.outputs[0]
        return LinearLayer(weight, path, seen, made, operands[1], self._bias(made))

    def _is_float(self, leaf: str) -> bool:
        return jnp.issubdtype(self._shapes[leaf].dtype, jnp.inexact)

    def _bias(self, number: int) -> Sum | None:
        """The leaf that is added to a value, if that is all that happens to it."""
        while len(self._users.get(number, ())) == 1 and number not in self._program.outputs:
            (user,) = self._users[number]
            if user.name not in MOVES:
                return self._sum(user, number) if user.name in SUMS else None
            number = user.outputs[0]
        return None

    def _sum(self, equation: Equation, number: int) -> Sum | None:
        """An equation that adds a leaf to a value of the same shape."""
        operand = 1 - equation.inputs.index(number)
        shape, whole = equation.eqn.invars[1 - operand].aval.shape, equation.eqn.outvars[0].aval.shape
        leaf = self._reader.leaf(equation.inputs[operand])
        if leaf is None or self._uses[leaf] > 1 or shape != whole or not self._is_float(leaf):
            return None
        return Sum(leaf, number, equation.inputs[operand])

    def _bias_fits(self, layer: LinearLayer) -> Array:
        """Whether the leaf that is added can add any `[B, F]`, the same to every sample."""
        if layer.bias is None:
            return jnp.asarray(True)
        batch, _, free = layer.product.sizes
        made = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (batch, free)), jnp.float32)
        if jnp.issubdtype(layer.product.made_dtype, jnp.complexfloating):  # of which a real leaf moves half
            made = made * (1 + 1j)
        wanted = self._moved(layer, made)
        added = self._as_used(layer.bias.leaf, layer.bias.added)(self.shift(layer, made))
        return jnp.allclose(jnp.broadcast_to(wide(added), wanted.shape), wanted, rtol=1e-2)

    @functools.cached_property
    def head(self) -> LinearLayer | None:
        """The layer that makes the network's one output `[N, classes]`, nothing but its bias following."""
        if len(self._program.outputs) != 1:
            return None
        (number,) = self._program.outputs
        by_made = {layer.made: layer for layer in self.layers}
        added: list[str | None] = []
        while number not in by_made:
            equation = self._program.maker.get(number)
            operands = self._reader.split(equation) if equation else None
            if equation is None or operands is None or equation.name not in MOVES | SUMS:
                return None
            number = operands[0]
            if equation.name in SUMS:
                added.append(None if operands[1] is None else self._reader.leaf(operands[1]))
        layer = by_made[number]
        own = added == ([layer.bias.leaf] if layer.bias else [])
        return layer if own and len(layer.product.made_shape) == 2 and layer.product.sizes[0] == 1 else None

    def matrices(self, layer: LinearLayer, leaf: Array) -> Float[Array, "B C F"]:
        """A weight leaf as the matrices by which the layer multiplies."""
        return layer.product.matrices(self._as_used(layer.weight, layer.operand)(leaf))

    def weight(self, layer: LinearLayer, matrices: Float[Array, "B C F"]) -> Array:
        """Undo `matrices`."""
        shape = self._shapes[layer.weight]
        back = jax.linear_transpose(self._as_used(layer.weight, layer.operand), shape)
        used = jax.eval_shape(self._as_used(layer.weight, layer.operand), shape)
        return back(layer.product.weight(matrices).astype(used.dtype))[0]

    def shift(self, layer: LinearLayer, made: Float[Array, "B F"]) -> Array:
        """The change of the bias leaf that adds `made` to every sample."""
        assert layer.bias is not None
        moved, used = self._moved(layer, made), self._as_used(layer.bias.leaf, layer.bias.added)

        def spread(leaf: Array) -> Array:
            value = used(leaf)
            value = value if jnp.iscomplexobj(moved) else value.real
            return jnp.broadcast_to(value, moved.shape).astype(moved.dtype)

        back = jax.linear_transpose(spread, self._shapes[layer.bias.leaf])
        return back(moved)[0] / back(jnp.ones_like(moved))[0]

    def _as_used(self, path: str, number: int) -> Callable[[Array], Array]:
        """The function from a leaf to the value that it is used as."""
        return lambda leaf: self._program.evaluate([number], {self._program.leaves[path]: leaf})[0]

    def _moved(self, layer: LinearLayer, made: Float[Array, "B F"]) -> Array:
        """What the bias is added to, if the layer makes `made` of every sample."""
        assert layer.bias is not None
        constant = Override((), lambda: layer.product.constant(made))
        return self._program.evaluate([layer.bias.value], {}, {layer.made: constant})[0]
