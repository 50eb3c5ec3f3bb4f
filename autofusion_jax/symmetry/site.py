"""Sites: the places in a traced program where a group's activations are live."""

import dataclasses
from typing import Any, Literal, get_args

from autofusion_jax.json_reader import Json
from autofusion_jax.symmetry.axes import Axis, axes_from_json, axes_to_json

Position = Literal["pre", "read"]


@dataclasses.dataclass(frozen=True)
class Site:
    """One value of the traced program that carries a group.

    Attributes:
        name: unique within the spec: `conv_1/kernel.pre`, `conv_2/kernel.read`.
        group: the group whose units it holds.
        position: `"pre"`: made by a weight, after its bias and norm scales and before any
            nonlinearity; `"read"`: what the next weight reads.
        leaf: the weight that makes or reads it.
        shape: the value's shape for the inputs that the spec was inferred from.
        axes: the value's axes.
        occurrence: which of the group's occurrences in the value, if there are several.
        path: the equation in the program, through calls and scans.
        operand: which of its operands, None for its output.
    """

    name: str
    group: str
    position: Position
    leaf: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    occurrence: int
    path: tuple[int, ...]
    operand: int | None

    @property
    def axis(self) -> int:
        """The axis of the value that carries the group's innermost part."""
        return next(n for n, axis in enumerate(self.axes) if self.group in axis.groups)

    def to_json(self) -> dict[str, Any]:
        """The site as plain lists and dicts."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**data, "axes": axes_to_json(self.axes)}

    @classmethod
    def from_json(cls, data: Json) -> "Site":
        """Read what `to_json` wrote."""
        fields = data.fields(*(field.name for field in dataclasses.fields(cls)))
        axes, shape = axes_from_json(fields["axes"]), tuple(n.integer() for n in fields["shape"].items())
        group = fields["group"].text()
        fields["shape"].require(shape == tuple(axis.size for axis in axes), "the sizes of the axes")
        fields["axes"].require(any(group in axis.groups for axis in axes), f"axes that carry {group!r}")
        return cls(
            name=fields["name"].text(),
            group=group,
            position=fields["position"].one_of(get_args(Position)),
            leaf=fields["leaf"].text(),
            shape=shape,
            axes=axes,
            occurrence=fields["occurrence"].integer(),
            path=tuple(n.integer() for n in fields["path"].items()),
            operand=None if fields["operand"].value is None else fields["operand"].integer(),
        )
