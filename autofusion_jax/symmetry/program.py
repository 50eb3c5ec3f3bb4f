"""A traced network as one flat list of equations, in which values can be replaced.

Corrections and partial merges change a network at places inside of it. Every value of the
traced program has a number here; an `Override` says that a value is to be computed in another
way, from whatever values it names. Evaluation goes from the outputs back, so what an override
makes superfluous is never computed.
"""

import dataclasses
import functools
import graphlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core as jex

from autofusion_jax.symmetry.infer import Program, digest, trace_program
from autofusion_jax.symmetry.rules.control import CALLS, inner_jaxpr
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.trace import Path
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params
from autofusion_jax.validation import require

DERIVATIVES = frozenset(("custom_jvp_call", "custom_vjp_call"))
"""Calls of functions that bring their own derivatives."""


@dataclasses.dataclass(frozen=True)
class Equation:
    """One equation that is no call, or a call that is left whole.

    Attributes:
        eqn: the equation of the jaxpr.
        inputs: numbers of the values it reads.
        outputs: numbers of the values it makes.
    """

    eqn: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.eqn.primitive.name

    def __call__(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Evaluate it."""
        if self.name in DERIVATIVES:
            return self._whole(inputs)
        made = self.eqn.primitive.bind(*inputs, **self.eqn.params)
        return made if self.eqn.primitive.multiple_results else [made]

    def _whole(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Evaluate a call as a program of one equation, which JAX knows how to bind."""
        # literals are part of the equation, and a jaxpr takes only variables as inputs
        free = [(v, atom) for v, atom in zip(inputs, self.eqn.invars) if not isinstance(atom, jex.Literal)]
        values, variables = zip(*free)
        # JAX wants names of arguments in a jaxpr for its messages; those of the function inside will do
        names = inner_jaxpr(self.eqn)[0].debug_info
        # bound through a jaxpr: custom_jvp and custom_vjp primitives take callables that only JAX's own
        # evaluation of an equation builds
        jaxpr = jex.Jaxpr((), variables, self.eqn.outvars, [self.eqn], debug_info=names)
        return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))(*values)


@dataclasses.dataclass(frozen=True)
class Override:
    """Another way to compute a value: `function(*values of sources)`."""

    sources: tuple[int, ...]
    function: Callable[..., Any]


Overrides = Mapping[int, Override]


def given(values: Mapping[int, Any]) -> dict[int, Override]:
    """Overrides that give values as they are, so that nothing behind them is computed."""
    return {number: Override((), functools.partial(_same, value)) for number, value in values.items()}


def _same(value: Any) -> Any:
    return value


class FlatProgram:
    """The equations of a traced network, with calls inlined.

    Attributes:
        leaves: path of every leaf -> number of its value.
        inputs: numbers of the values of the inputs.
        outputs: numbers of the values of the outputs.
        constants: number -> value of a constant.
        equations: the equations, by path, in the order of the program.
        maker: number of a value -> the equation that makes it.
    """

    def __init__(self, program: Program, *, keep_derivatives: bool = False, sites_of: str = "") -> None:
        """Flatten a program.

        Args:
            program: the traced network.
            keep_derivatives: leave functions with derivatives of their own whole, one equation each: what
                is inside cannot be replaced then, but gradients are theirs, not those of what they do.
            sites_of: the digest of the program that sites are of, if it is known; see `PermSpec.program`.
        """
        self._sites_of, self._digest = sites_of, digest(program)
        # inlined, each value inside has a number and can be replaced; what is left whole is one equation
        self._inlined = frozenset(CALLS) - (DERIVATIVES if keep_derivatives else frozenset())
        self.constants: dict[int, Any] = {}
        self.equations: dict[Path, Equation] = {}
        self.maker: dict[int, Equation] = {}
        self._count = 0
        # leaves first, inputs after them: that is how `trace_program` orders the arguments
        numbers = [self.new() for _ in program.jaxpr.invars]
        self.leaves = dict(zip(program.paths, numbers))
        self.inputs = tuple(numbers[len(program.paths) :])
        consts = [self._constant(value) for value in program.consts]
        self.outputs = tuple(self._walk(program.jaxpr, consts, numbers, ()))

    def new(self) -> int:
        """A number for a further value."""
        self._count += 1
        return self._count

    def _constant(self, value: Any) -> int:
        number = self.new()
        self.constants[number] = value
        return number

    def _walk(self, jaxpr: Any, consts: Sequence[int], inputs: Sequence[int], path: Path) -> list[int]:
        numbers = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs)))

        def read(atom: Any) -> int:
            return self._constant(atom.val) if isinstance(atom, jex.Literal) else numbers[atom]

        for position, eqn in enumerate(jaxpr.eqns):
            here, operands = (*path, position), [read(atom) for atom in eqn.invars]
            if eqn.primitive.name in self._inlined:
                inner, values = inner_jaxpr(eqn)
                outputs = self._walk(inner, [self._constant(value) for value in values], operands, here)
            else:
                outputs = [self.new() for _ in eqn.outvars]
                equation = Equation(eqn, tuple(operands), tuple(outputs))
                self.equations[here] = equation
                # scans and conditionals are one equation as well: what is inside of them has no number
                self.maker.update(dict.fromkeys(outputs, equation))
            numbers.update(zip(eqn.outvars, outputs))
        return [read(atom) for atom in jaxpr.outvars]

    def values(self, params: Params, x: Any) -> dict[int, Any]:
        """The values of all leaves and inputs, by their numbers: what `evaluate` starts from."""
        leaves = flatten_by_path(params)
        known = {number: leaves[path] for path, number in self.leaves.items()}
        return known | dict(zip(self.inputs, jax.tree.leaves(x)))

    def at(self, site: Site) -> int | None:
        """The number of the value at a site of this very program; None if it is inside of a loop.

        Raises:
            ValueError: the sites are of another program.
        """
        require(
            self._sites_of in ("", self._digest), "FlatProgram.at", "site",
            "of the program of these networks", site.name, "Infer the spec again from these.",
        )  # fmt: skip
        equation = self.equations.get(site.path)
        if equation is None:
            return None
        return equation.outputs[0] if site.operand is None else equation.inputs[site.operand]

    def rename(self, number: int) -> int:
        """Give what is made as `number` a new one, so that an override can take its place."""
        raw, equation = self.new(), self.maker[number]
        outputs = tuple(raw if output == number else output for output in equation.outputs)
        moved = dataclasses.replace(equation, outputs=outputs)
        # `equations` is left as it is: a site still leads to the old number, hence to what takes its place
        self.maker.pop(number)
        self.maker.update(dict.fromkeys(outputs, moved))
        return raw

    def sources(self, number: int, overrides: Overrides) -> tuple[int, ...]:
        """The values that a value is computed from."""
        if number in overrides:
            return overrides[number].sources
        equation = self.maker.get(number)
        return equation.inputs if equation else ()

    def needed(
        self, numbers: Sequence[int], overrides: Overrides | None = None
    ) -> dict[int, tuple[int, ...]]:
        """All values that some values depend on, themselves included -> what each is computed from."""
        found: dict[int, tuple[int, ...]] = {}
        # a stack and no recursion: a network has thousands of equations in a row
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found[number] = self.sources(number, overrides or {})
                waiting.extend(found[number])
        return found

    def evaluate(
        self, wanted: Sequence[int], values: Mapping[int, Any], overrides: Overrides | None = None
    ) -> list[Any]:
        """Compute some values.

        Args:
            wanted: their numbers.
            values: values of the leaves and inputs that they depend on.
            overrides: other ways to compute some values; may not go in circles.

        Returns:
            The values, in the order of `wanted`.
        """
        overrides = overrides or {}
        # an override wins over a value that is given, or a replaced input would have no effect
        known = {**self.constants, **{n: v for n, v in values.items() if n not in overrides}}
        # only what the wanted values need: equations behind an override are not in the order at all
        for number in graphlib.TopologicalSorter(self.needed(wanted, overrides)).static_order():
            if number in known:
                continue
            if number in overrides:
                rule = overrides[number]
                known[number] = rule.function(*(known[source] for source in rule.sources))
                continue
            equation = self.maker[number]
            made = equation([known[source] for source in equation.inputs])
            # an equation of several outputs makes the overridden one, too; that value is dropped
            known.update((n, v) for n, v in zip(equation.outputs, made) if n not in overrides)
        return [known[number] for number in wanted]


def flatten_program(
    spec: PermSpec, params: Params, x: Any, *, caller: str, keep_derivatives: bool = False
) -> FlatProgram:
    """Trace the network of a spec and flatten its program.

    Args:
        spec: a spec that carries an `apply_fn`.
        params: parameters, arrays or shapes.
        x: inputs, arrays or shapes.
        caller: the public function that asks, for messages.
        keep_derivatives: as in `FlatProgram`; for programs that gradients are taken of.

    Raises:
        ValueError: the spec has no `apply_fn`, or it cannot be traced.
    """
    if spec.apply_fn is None:
        raise ValueError(
            f"{caller}: perm_spec must carry an apply_fn; use infer_perm_spec(apply_fn, params, x)."
        )
    program = trace_program(spec.apply_fn, params, x, caller=caller)
    return FlatProgram(program, keep_derivatives=keep_derivatives, sites_of=spec.program)
