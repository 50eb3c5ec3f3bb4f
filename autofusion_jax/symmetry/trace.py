"""Abstract evaluation of a jaxpr: every value as labelled axes, one rule per primitive."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from jax.extend import core as jex
from jax.extend import source_info_util

from autofusion_jax.symmetry.axes import Role
from autofusion_jax.symmetry.constants import constant_axes
from autofusion_jax.symmetry.labels import Factors, fixed_axis, labels_of, pin, total

Origin: TypeAlias = frozenset[tuple[int, int]]
"""The (leaf, axis) pairs that an axis comes from, while the value is made of parameters only."""

Path: TypeAlias = tuple[int, ...]
"""Where an equation stands: its number in the jaxpr, then in the jaxpr inside it, and so on."""

NOWHERE: Origin = frozenset()


@dataclasses.dataclass
class Made:
    """A value that a weight has just made, followed through bias and norm scales.

    Attributes:
        weight: the leaf that made it.
        path: the equation whose first output it is.
        axes: the axes of the scans that it stands in, and its own.
        own: those of its axes that come from the weight.
    """

    weight: int
    path: Path
    axes: list[Factors]
    own: list[Factors]


@dataclasses.dataclass(frozen=True)
class Read:
    """A value at the moment in which a weight reads it; `own` are the axes that the weight has too."""

    weight: int
    path: Path
    operand: int
    axes: list[Factors]
    own: list[Factors]


@dataclasses.dataclass
class Value:
    """What is known about one value of the program.

    Attributes:
        axes: one list of factors for each axis.
        origin: where each axis comes from, while the entries are those of parameters.
        live: whether it depends on the inputs.
        index: if its entries are positions along an axis (an iota, an argmax), that axis.
        shifted: whether something was added to those positions.
        known: for a boolean that is the same whatever the permutation, its value.
        leaf: the parameter leaf that it is, if it is one unchanged.
        made: the weight's output that it is, up to bias and scales.
    """

    axes: list[Factors]
    origin: list[Origin] = dataclasses.field(default_factory=list)
    live: bool = True
    index: Factors | None = None
    shifted: bool = False
    known: bool | None = None
    leaf: int | None = None
    made: Made | None = None

    def __post_init__(self) -> None:
        self.axes = [list(axis) for axis in self.axes]
        self.origin = list(self.origin) or [NOWHERE] * len(self.axes)

    def pick(self, dims: Sequence[int], *, keep_made: bool = False) -> "Value":
        """The same entries with only the axes `dims`, in that order."""
        origin = [self.origin[d] for d in dims]
        return self.with_axes([self.axes[d] for d in dims], origin, made=self.made if keep_made else None)

    def with_axes(
        self, axes: Sequence[Factors], origin: Sequence[Origin] = (), *, made: Made | None = None
    ) -> "Value":
        """The same entries under other axes."""
        return dataclasses.replace(self, axes=list(axes), origin=list(origin), leaf=None, made=made)

    def pin(self, reason: str) -> None:
        """Fix every axis."""
        for axis in self.axes:
            pin(axis, reason)

    @property
    def weight(self) -> int | None:
        """The leaf that a weight comes from; the last in order if there are several."""
        return max((leaf for origin in self.origin for leaf, _ in origin), default=None)

    @property
    def is_weight(self) -> bool:
        """Whether it is made of parameters, or chosen among them by something live (a look-up)."""
        return not self.live or any(self.origin)


Rule: TypeAlias = Callable[["Tracer", Any, list[Value]], list[Value]]
"""`rule(tracer, eqn, inputs) -> outputs`: how one primitive relates the axes of its values."""


@dataclasses.dataclass
class Record:
    """Axes that occur together, those of the scans around them included; whether they are just a leaf's."""

    axes: list[Factors]
    is_leaf: bool = False


class Tracer:
    """One walk over a jaxpr, and what it finds out beside the labels themselves.

    Attributes:
        rules: primitive name -> rule.
        strict: whether ties between units are taken into account (see rules/index.py).
        records: which axes occur together.
        roles: the role of each (leaf, axis) at its first use.
        weak_roles: the same for uses on other weights, which count only where there is no other.
        two_roles: those that are used in the other role as well (a tied embedding).
        order: leaves in the order of their first use.
        notes: what a user should know, each once.
        made: values that weights make, by path.
        read: values that weights read, by path and operand.
        pairs: batch axes of products of two live values (attention heads).
        scans: the axes of the scans around the present equation, outermost first.
        assumes_no_ties: whether an argmax or top_k was passed in the belief that its inputs differ.
    """

    def __init__(self, rules: Mapping[str, Rule], *, strict: bool) -> None:
        self.rules = rules
        self.strict = strict
        self.records: list[Record] = []
        self.roles: dict[tuple[int, int], Role] = {}
        self.weak_roles: dict[tuple[int, int], Role] = {}
        self.two_roles: dict[tuple[int, int], None] = {}
        self.order: dict[int, None] = {}
        self.notes: dict[str, None] = {}
        self.made: dict[Path, Made] = {}
        self.read: dict[tuple[Path, int], Read] = {}
        self.pairs: list[Factors] = []
        self.assumes_no_ties = False
        self.path: Path = ()
        self.enclosing: list[Any] = []
        self.reachable = True
        self.scans: list[Factors] = []

    def use(self, origins: Sequence[Origin], role: Role, *, weak: bool = False) -> None:
        """Record in which role the axes of a weight act; weakly if only on another weight."""
        for leaf_axis in (pair for origin in origins for pair in origin):
            if weak:
                self.weak_roles.setdefault(leaf_axis, role)
            elif self.roles.setdefault(leaf_axis, role) != role:
                self.two_roles.setdefault(leaf_axis)

    def role(self, leaf: int, axis: int) -> Role:
        """The role in which an axis of a leaf acts."""
        return self.roles.get((leaf, axis)) or self.weak_roles.get((leaf, axis), "out")

    def note_together(self, axes: Sequence[Factors]) -> None:
        """Record that these axes index one thing: nesting may rely on it."""
        self.records.append(Record([*axes, *self.scans]))

    def note_value(self, value: Value) -> None:
        """Record the axes of a value. Positions of an iota agree under any permutation: no record."""
        if value.index is None:
            self.note_together(value.axes)
        elif value.live or any(value.origin):
            self.note_together([*value.axes, value.index])

    @contextmanager
    def inside(self, axis: Factors) -> Iterator[None]:
        """Values made inside belong to one index along a scanned axis."""
        self.scans.append(axis)
        yield
        self.scans.pop()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Values made inside (a loop of unknown length, a branch) cannot be captured."""
        before, self.reachable = self.reachable, False
        yield
        self.reachable = before

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Walk over the equations of an open jaxpr."""
        values: dict[Any, Value] = {}
        for var, const in zip(jaxpr.constvars, consts):
            values[var] = const if isinstance(const, Value) else self.constant(const)
        values.update(zip(jaxpr.invars, inputs))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, jex.Literal) else values[atom]

        outer = self.path
        for number, eqn in enumerate(jaxpr.eqns):
            self.path = (*outer, number)
            outputs = self._apply(eqn, [read(atom) for atom in eqn.invars])
            for var, output in zip(eqn.outvars, outputs):
                shape = tuple(getattr(var.aval, "shape", ()))
                assert tuple(map(total, output.axes)) == shape or 0 in shape, (eqn, output.axes)
                values[var] = output
                self.note_value(output)
        self.path = outer
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        rule = self.rules.get(name)
        if rule is None or not getattr(rule, "is_call", False):
            for value in inputs:
                if value.leaf is not None:
                    self.order.setdefault(value.leaf)
        if rule is None:
            return self._unknown(eqn, inputs)
        if not getattr(rule, "reads_index", False):
            for value in inputs:
                if value.index is not None:
                    pin(value.index, f"arithmetic on its positions ({name})")
            inputs = [dataclasses.replace(v, index=None, shifted=False, known=None) for v in inputs]
        self.enclosing.append(eqn)
        outputs = rule(self, eqn, inputs)
        self.enclosing.pop()
        if getattr(rule, "mixes", False):
            self._note_survivors(inputs, outputs)
        return outputs

    def _note_survivors(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        """Record, for each input, the axes that its outputs still have.

        A mixed axis gets a new fixed label. That alone is not enough: added to what it was made
        from (`h + h[::-1]`), the two labels are joined, and units would seem aligned again.
        """
        left = {label.id for value in outputs for axis in value.axes for label in labels_of(axis)}
        for value in inputs:
            kept = [axis for axis in value.axes if {label.id for label in labels_of(axis)} <= left]
            if len(kept) < len(value.axes):
                self.note_together(kept)

    def constant(self, constant: Any) -> Value:
        """A constant: each axis is fixed except as far as the entries along it are equal."""
        axes, runs = constant_axes(constant)
        for run in runs:  # runs of different entries are not interchangeable
            self.note_together([run])
        return Value(axes, live=False)

    def _unknown(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """Without a rule, anything may depend on the order: fix all that meets it, and say so."""
        name = eqn.primitive.name
        for value in inputs:
            value.pin(f"no rule for {name}")
            if value.index is not None:
                pin(value.index, f"no rule for {name}")
        places = (source_info_util.summarize(e.source_info) for e in (eqn, *reversed(self.enclosing)))
        place = next((place for place in places if place), "an unknown place")
        self.notes.setdefault(f"no rule for primitive {name!r} at {place}: what meets it is fixed")
        return [fixed_value(var.aval, f"made by {name}") for var in eqn.outvars]


def fixed_value(aval: Any, reason: str) -> Value:
    """A value of which nothing may move."""
    return Value([fixed_axis(size, reason) for size in getattr(aval, "shape", ())])
