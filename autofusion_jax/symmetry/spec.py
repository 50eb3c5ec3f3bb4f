"""The permutation spec: which axis of which leaf carries which group, and in which role."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

from autofusion_jax.symmetry.axes import Axis, AxisPattern, Factor, resolve_pattern
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class Group:
    """One hidden axis that can be reordered without changing the function.

    Attributes:
        name: its name, after the layer that produces it.
        size: the number of units.
        nested_in: the outer group whose every index has an inner permutation of its own
            (head_dim in heads), or None.
    """

    name: str
    size: int
    nested_in: str | None = None


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """The axes of one parameter leaf."""

    path: str
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the leaf must have."""
        return tuple(axis.size for axis in self.axes)

    @property
    def layer(self) -> str:
        """The module the leaf belongs to: its path without the last key."""
        return self.path.rpartition("/")[0] or self.path


@dataclasses.dataclass(frozen=True, eq=False)
class PermSpec:
    """The permutation symmetries of a network, leaf by leaf.

    Hashable and static: usable as a jit-static argument. Two specs are equal if their leaves,
    groups and `apply_fn` are.

    Attributes:
        leaves: one entry for every leaf, in the order of the layers in the forward pass.
        groups: group name -> `Group`, in the order in which they are produced.
        apply_fn: the function whose symmetries these are, `apply_fn(params, x) -> outputs`.

    Example:
        >>> import jax.numpy as jnp
        >>> from autofusion_jax import in_axis, out_axis
        >>> params = {"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2))}
        >>> spec = PermSpec.from_table(
        ...     {"up": (None, out_axis("up")), "down": (in_axis("up"), None)}, params)
        >>> spec.groups["up"].size
        4
    """

    leaves: tuple[LeafSpec, ...]
    groups: Mapping[str, Group]
    apply_fn: ApplyFn | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))
        for leaf in self.leaves:
            for number, axis in enumerate(leaf.axes):
                _check_axis(leaf.path, number, axis, self.groups)
        for group in self.groups.values():
            outer = self.groups.get(group.nested_in or "")
            if group.nested_in and (outer is None or outer.nested_in):
                raise ValueError(
                    f"PermSpec: group {group.name!r} must be nested in a group of the spec that "
                    f"is not nested itself; got nested_in={group.nested_in!r}."
                )

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return self.leaves, tuple(self.groups.values()), self.apply_fn

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PermSpec) and self._key == other._key

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, Sequence[AxisPattern | None]],
        params: Params,
        *,
        sizes: Mapping[str, int] | None = None,
        nested: Mapping[str, str] | None = None,
        apply_fn: ApplyFn | None = None,
    ) -> "PermSpec":
        """Build a spec from a table written by hand.

        Args:
            table: leaf path -> one entry per axis: `out_axis(...)`, `in_axis(...)` or None
                for a fixed axis. Layers in the order of the forward pass.
            params: any parameters of the network (arrays or shapes); gives the sizes.
            sizes: group sizes that do not follow from a single axis.
            nested: inner group -> outer group.
            apply_fn: the function whose symmetries these are.

        Raises:
            ValueError: the table names a leaf that `params` lacks or leaves one out, has the
                wrong number of axes, or a size does not fit.
        """
        shapes = {path: np.shape(leaf) for path, leaf in flatten_by_path(params).items()}
        _check_table(table, shapes)
        known = dict(sizes or {})
        axes: dict[tuple[str, int], Axis | None] = {}
        for _ in range(2 + len(table)):
            learned = len(known)
            for path, patterns in table.items():
                for number, pattern in enumerate(patterns):
                    axes[path, number] = resolve_pattern(pattern, shapes[path][number], known)
            if len(known) == learned:
                break
        for (path, number), axis in axes.items():
            if axis is None or axis.size != shapes[path][number]:
                got = "groups of unknown size (pass sizes=...)" if axis is None else str(axis)
                raise ValueError(
                    f"PermSpec.from_table: {path} axis {number} must multiply to "
                    f"{shapes[path][number]} positions; got {got}."
                )
        leaves = tuple(
            LeafSpec(path, tuple(a for i in range(len(p)) if (a := axes[path, i]) is not None))
            for path, p in table.items()
        )
        names = dict.fromkeys(g for leaf in leaves for axis in leaf.axes for g in axis.groups)
        groups = {name: Group(name, known[name], (nested or {}).get(name)) for name in names}
        return cls(leaves, groups, apply_fn)

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The modules that own the leaves, each once, in the order of the forward pass."""
        return tuple(dict.fromkeys(leaf.layer for leaf in self.leaves))

    def to_json(self) -> str:
        """Write the spec (without `apply_fn`) as JSON."""
        leaves = [
            {
                "path": leaf.path,
                "axes": [
                    {"role": a.role, "blocks": [[[f.size, f.group] for f in b] for b in a.blocks]}
                    for a in leaf.axes
                ],
            }
            for leaf in self.leaves
        ]
        groups = [dataclasses.asdict(group) for group in self.groups.values()]
        return json.dumps({"groups": groups, "leaves": leaves})

    @classmethod
    def from_json(cls, text: str, *, apply_fn: ApplyFn | None = None) -> "PermSpec":
        """Read what `to_json` wrote; the function it belongs to may be given with it."""
        data = json.loads(text)
        leaves = tuple(
            LeafSpec(
                leaf["path"],
                tuple(
                    Axis(tuple(tuple(Factor(*f) for f in b) for b in a["blocks"]), a["role"])
                    for a in leaf["axes"]
                ),
            )
            for leaf in data["leaves"]
        )
        return cls(leaves, {g["name"]: Group(**g) for g in data["groups"]}, apply_fn)

    def __rich__(self) -> Table:
        table = Table("leaf", "shape", "axes", title=f"{len(self.groups)} groups")
        for leaf in self.leaves:
            table.add_row(leaf.path, str(leaf.shape), ", ".join(map(str, leaf.axes)))
        return table

    def __str__(self) -> str:
        width = max((len(leaf.path) for leaf in self.leaves), default=0)
        lines = [
            f"{leaf.path:<{width}}  {leaf.shape!s:<18}  [{', '.join(map(str, leaf.axes))}]"
            for leaf in self.leaves
        ]
        return "\n".join([f"PermSpec with {len(self.groups)} groups", *lines])


def _check_axis(path: str, number: int, axis: Axis, groups: Mapping[str, Group]) -> None:
    if bool(axis.groups) != (axis.role is not None):
        raise ValueError(
            f"PermSpec: {path} axis {number} must have a role exactly if it carries a group; "
            f"got role {axis.role!r} and groups {list(axis.groups)}."
        )
    for factor in (f for block in axis.blocks for f in block if f.group is not None):
        group = groups.get(factor.group or "")
        if group is None or group.size != factor.size:
            known = "no such group" if group is None else f"size {group.size}"
            raise ValueError(
                f"PermSpec: {path} axis {number} carries group {factor.group!r} of size "
                f"{factor.size}, but groups says {known}."
            )


def _check_table(table: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for path in [*table, *shapes]:
        if path not in shapes or path not in table:
            place = "params has no such leaf" if path in table else "the table leaves it out"
            raise ValueError(f"PermSpec.from_table: {path!r} must be in both; {place}.")
        if len(table[path]) != len(shapes[path]):
            raise ValueError(
                f"PermSpec.from_table: {path} must have {len(shapes[path])} axes "
                f"(shape {shapes[path]}); the table gives {len(table[path])}."
            )
