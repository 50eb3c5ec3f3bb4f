"""Sites: the places in a traced program where a group's activations are live."""

import dataclasses
from typing import Any, Literal

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
    def from_json(cls, data: dict[str, Any]) -> "Site":
        """Read what `to_json` wrote."""
        lists = {"shape": tuple(data["shape"]), "path": tuple(data["path"])}
        return cls(**{**data, **lists, "axes": axes_from_json(data["axes"])})
