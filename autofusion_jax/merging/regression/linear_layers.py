"""The linear layers of a traced network: a weight, what it reads, and the bias that is added."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.merging.regression.layer_statistics import Product, product
from autofusion_jax.symmetry.affine import MOVES, AffineReader, moved
from autofusion_jax.symmetry.program import Equation, FlatProgram
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
        units = {layer.bias.leaf: self._units_of(layer, layer.bias) for layer in layers if layer.bias}
        self._units = {path: found for path, found in units.items() if found is not None}
        self.layers = tuple(
            layer if layer.bias and layer.bias.leaf in self._units else dataclasses.replace(layer, bias=None)
            for layer in layers
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

    def _units_of(self, layer: LinearLayer, bias: Sum) -> np.ndarray | None:
        """Which of `[B, F]` each entry of the bias leaf is added to; None if one is added to several.

        Entries are followed as numbers on the host: what the program does to them is to move them.
        """
        batch, _, free = layer.product.sizes
        if _is_complex(layer.product.made_dtype) != _is_complex(self._shapes[bias.leaf].dtype):
            return None  # a real leaf moves half of a complex number
        made = layer.product.constant(np.arange(batch * free).reshape(batch, free))
        units = self._followed(bias.value, layer.made, made)
        shape = self._shapes[bias.leaf].shape
        entries = np.arange(math.prod(shape)).reshape(shape)
        entries = np.broadcast_to(
            self._followed(bias.added, self._program.leaves[bias.leaf], entries), units.shape
        )
        found = np.zeros(math.prod(shape), int)
        found[entries] = units
        return found.reshape(shape) if np.array_equal(found[entries], units) else None

    def _followed(self, number: int, start: int, values: np.ndarray) -> np.ndarray:
        """A value that is made of another by moving its entries."""
        if number == start:
            return values
        equation = self._program.maker[number]
        return moved(equation, self._followed(equation.inputs[0], start, values))

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

    def matrices(self, layer: LinearLayer, leaf: Array) -> Inexact[Array, "B C F"]:
        """A weight leaf as the matrices by which the layer multiplies."""
        return layer.product.matrices(self._as_used(layer.weight, layer.operand)(leaf))

    def weight(self, layer: LinearLayer, matrices: Inexact[Array, "B C F"]) -> Array:
        """Undo `matrices`."""
        shape = self._shapes[layer.weight]
        back = jax.linear_transpose(self._as_used(layer.weight, layer.operand), shape)
        used = jax.eval_shape(self._as_used(layer.weight, layer.operand), shape)
        return back(layer.product.weight(matrices).astype(used.dtype))[0]

    def shift(self, layer: LinearLayer, made: Inexact[Array, "B F"]) -> Array:
        """The change of the bias leaf that adds `made` to every sample."""
        assert layer.bias is not None
        return made.reshape(-1)[self._units[layer.bias.leaf]]

    def _as_used(self, path: str, number: int) -> Callable[[Array], Array]:
        """The function from a leaf to the value that it is used as."""
        return lambda leaf: self._program.evaluate([number], {self._program.leaves[path]: leaf})[0]


def _is_complex(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)
