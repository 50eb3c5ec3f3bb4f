"""The leaves that scale and shift a value of the program, read off its equations.

A pre-activation is made by a chain of affine steps: a product with a weight, perhaps a
normalisation with stored statistics, a scale, a bias. Multiplying the last factor and all that
is added after it by `a`, and adding `c` to the bias, gives `a z + c` with no new parameters.
"""

import dataclasses

import numpy as np
from jaxtyping import Shaped

from autofusion_jax.symmetry.program import Equation, FlatProgram

MOVES = frozenset(
    ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze", "transpose")
)
SUMS = frozenset(("add", "add_any", "sub"))
PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))


def moved(equation: Equation, values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Do on the host what one of `MOVES` does to the places of entries; dtypes stay as they are."""
    params, shape = equation.eqn.params, equation.eqn.outvars[0].aval.shape
    if equation.name == "transpose":
        return values.transpose(params["permutation"])
    if equation.name == "broadcast_in_dim":
        kept = dict(zip(params["broadcast_dimensions"], values.shape))
        values = np.broadcast_to(values.reshape([kept.get(axis, 1) for axis in range(len(shape))]), shape)
    return values.reshape(shape)


@dataclasses.dataclass(frozen=True)
class AffineLeaves:
    """The leaves that make a value affinely.

    Attributes:
        scale: path of the leaf whose multiplication by `a` multiplies the value.
        added: paths of the leaves that are added after it and must be multiplied as well.
        shift: the one of `added` to which `c` can be added, or None: the value cannot be shifted.
    """

    scale: str
    added: tuple[str, ...]
    shift: str | None


class AffineReader:
    """Reads `AffineLeaves` off a program.

    Attributes:
        live: numbers of the values that depend on the inputs.
    """

    def __init__(self, program: FlatProgram) -> None:
        self.program = program
        self.live = set(program.inputs)
        for equation in program.equations.values():
            if self.live.intersection(equation.inputs):
                self.live.update(equation.outputs)
        self._paths = {number: path for path, number in program.leaves.items()}
        self._uses = dict.fromkeys(program.leaves, 0)
        for equation in program.equations.values():
            if equation.name not in MOVES:
                for path in filter(None, set(map(self.leaf, equation.inputs))):
                    self._uses[path] += 1

    def leaf(self, number: int) -> str | None:
        """The leaf that a value is, but for its shape and dtype."""
        while number not in self._paths:
            equation = self.program.maker.get(number)
            if equation is None or equation.name not in MOVES:
                return None
            number = equation.inputs[0]
        return self._paths[number]

    def split(self, equation: Equation) -> tuple[int, int | None] | None:
        """The live operand and the other one; None unless exactly one is live."""
        live = [number for number in equation.inputs if number in self.live]
        still = [number for number in equation.inputs if number not in self.live]
        return (live[0], still[0] if still else None) if len(live) == 1 else None

    def read(self, number: int) -> AffineLeaves | None:
        """The leaves that make a value; None where it is not affine in leaves used only there."""
        added: list[str] = []
        shift: str | None = None
        scale: str | None = None
        outermost = True
        while scale is None:
            equation = self.program.maker.get(number)
            operands = self.split(equation) if equation else None
            if equation is None or operands is None:
                return None
            number, still = operands
            if equation.name in MOVES:
                continue
            if still is None:
                return None
            if equation.name in SUMS and not (equation.name == "sub" and still == equation.inputs[0]):
                leaf = self.leaf(still)
                if leaf is None:
                    return None
                shift = leaf if outermost and equation.name != "sub" else shift
                added.append(leaf)
            elif equation.name in PRODUCTS:
                scale = self.leaf(still)
                if scale is None:
                    return None
            elif equation.name == "mul":
                scale = self._factor(still)
            elif equation.name != "div" or still == equation.inputs[0]:
                return None
            outermost = False
        leaves = [scale, *added]
        own = len(set(leaves)) == len(leaves) and all(self._uses[leaf] == 1 for leaf in leaves)
        return AffineLeaves(scale, tuple(added), shift) if own else None

    def _factor(self, number: int) -> str | None:
        """A leaf that is a factor of a value made of parameters only."""
        leaf, equation = self.leaf(number), self.program.maker.get(number)
        if leaf or equation is None or equation.name not in MOVES | {"mul", "div"}:
            return leaf
        inputs = equation.inputs if equation.name == "mul" else equation.inputs[:1]
        return next((found for found in map(self._factor, inputs) if found), None)
