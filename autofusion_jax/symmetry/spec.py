"""The permutation spec: for every axis of every leaf the groups that it carries, and its role."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from rich.markup import escape
from rich.table import Table

from autofusion_jax.html_tables import html_table
from autofusion_jax.json_reader import Json, parse_json
from autofusion_jax.partition import check_apply_fn, split
from autofusion_jax.symmetry.axes import (
    Axis,
    AxisPattern,
    Factor,
    Family,
    axes_from_json,
    axes_to_json,
    resolve_pattern,
    terms_of,
)
from autofusion_jax.symmetry.site import Site
from autofusion_jax.trees import flatten_by_path, is_number
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

LISTED = 8
"""Groups that `repr` lists."""


@dataclasses.dataclass(frozen=True)
class Group:
    """One hidden axis that can be reordered without changing the function.

    Attributes:
        name: its name, after the layer that produces it.
        size: the number of units.
        nested_in: the outer groups (or stacks: fixed axes, such as that of scanned layers) whose
            every index has a permutation of its own (head_dim in heads), outermost first.
        combined: how a group of several parts consists of them: `"product"` of several
            factors, or `"sum"` of several blocks; None for a group that is one factor.
    """

    name: str
    size: int
    nested_in: tuple[str, ...] = ()
    combined: Literal["product", "sum"] | None = None


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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PermSpec:
    """The permutation symmetries of a network, leaf by leaf.

    Hashable and static: usable as a jit-static argument. Two specs are equal if their leaves,
    groups, stacks and `apply_fn` are; notes and sites do not count.

    Attributes:
        leaves: one entry for every leaf, in the order of the layers in the forward pass.
        groups: group name -> `Group`, in the order in which they are produced.
        apply_fn: the function whose symmetries these are, `apply_fn(params, x) -> outputs`.
        stacks: name -> size of the fixed factors that groups are nested in or families depend on.
        notes: what inference wants its user to know: unknown primitives, leaves in two roles.
        sites: where the groups' activations are live in the traced program; see `capture_sites`.
        program: the digest of that program; empty if nobody knows.
        fitted: whether the sites were found again for networks that run another program than those
            the spec was inferred from; see `infer.fitted_spec`.

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
    stacks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    program: str = ""
    fitted: bool = False

    def __post_init__(self) -> None:
        if self.apply_fn is not None:
            check_apply_fn("PermSpec", self.apply_fn)
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))
        object.__setattr__(self, "stacks", MappingProxyType(dict(self.stacks)))
        for leaf in self.leaves:
            for number, axis in enumerate(leaf.axes):
                _check_axis(leaf.path, number, axis, self.groups)
        for group in self.groups.values():
            known: set[str] = set(self.stacks)
            for outer in group.nested_in:
                if outer not in self.stacks and not (
                    outer in self.groups and known.issuperset(self.groups[outer].nested_in)
                ):
                    raise ValueError(
                        f"PermSpec: group {group.name!r} must be nested in groups or stacks of the spec, "
                        f"and in all that these are nested in, outermost first; got {group.nested_in!r}."
                    )
                known.add(outer)

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        # places in another program must not be taken for these where equal specs share what was made of one
        places = self.program if self.fitted else ""
        return self.leaves, tuple(self.groups.values()), tuple(self.stacks.items()), self.apply_fn, places

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
        nested: Mapping[str, str | tuple[str, ...]] | None = None,
        apply_fn: ApplyFn | None = None,
    ) -> "PermSpec":
        """Build a spec from a table written by hand.

        Args:
            table: leaf path -> one entry per axis: `out_axis(...)`, `in_axis(...)` or None
                for a fixed axis. Layers in the order of the forward pass.
            params: any parameters of the network (arrays or shapes); gives the sizes.
            sizes: group sizes that do not follow from a single axis.
            nested: inner group -> its outer group, or all of them, outermost first.
            apply_fn: the function whose symmetries these are.

        Raises:
            ValueError: the table names a leaf that `params` lacks or leaves one out, has the
                wrong number of axes, or a size does not fit.
        """
        shapes = {path: np.shape(leaf) for path, leaf in flatten_by_path(params).items() if is_number(leaf)}
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
        outer = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in (nested or {}).items()}
        groups = {name: Group(name, known[name], outer.get(name, ())) for name in names}
        return cls(leaves, groups, apply_fn)

    def outer_sizes(self, group: str) -> tuple[int, ...]:
        """The sizes of the groups and stacks that a group is nested in, outermost first."""
        names = self.groups[group].nested_in
        return tuple(self.stacks[n] if n in self.stacks else self.groups[n].size for n in names)

    def of_numbers(self, params: Params) -> tuple["PermSpec", Params]:
        """The spec and the network without the leaves that are no numbers, to which `apply_fn` is bound."""
        numbers, rest = split(params)
        if not rest.leaves or self.apply_fn is None:
            return self, numbers
        return dataclasses.replace(self, apply_fn=rest.bind(self.apply_fn)), numbers

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """The modules that own the leaves, each once, in the order of the forward pass."""
        return tuple(dict.fromkeys(leaf.layer for leaf in self.leaves))

    def to_json(self) -> str:
        """Write the spec (without `apply_fn`) as JSON."""
        return json.dumps(
            {
                "groups": [dataclasses.asdict(group) for group in self.groups.values()],
                "leaves": [{"path": leaf.path, "axes": axes_to_json(leaf.axes)} for leaf in self.leaves],
                "stacks": dict(self.stacks),
                "notes": self.notes,
                "sites": [site.to_json() for site in self.sites],
                "program": self.program,
            }
        )

    @classmethod
    def from_json(cls, text: str, *, apply_fn: ApplyFn | None = None) -> "PermSpec":
        """Read what `to_json` wrote; the function it belongs to may be given with it.

        Raises:
            ValueError: the text is something else; names the place in it.
        """
        require(isinstance(text, str), "PermSpec.from_json", "text", "a string", type(text).__name__)
        spec = spec_from_json(parse_json(text, "PermSpec.from_json: text"))
        return dataclasses.replace(spec, apply_fn=apply_fn)

    def __repr__(self) -> str:
        names = [f"{group.name}: {group.size}" for group in self.groups.values()]
        listed = ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
        parts = [f"{len(names)} groups {{{listed}}}", f"{len(self.leaves)} leaves"]
        if self.notes:
            parts.append(f"{len(self.notes)} notes")
        return f"PermSpec({', '.join(parts)})  # print(spec) lists leaves and notes"

    def _repr_html_(self) -> str:
        """The groups, the leaves with their axes, and the notes, as an HTML table."""
        groups = [
            (
                group.name,
                f"{group.size} units",
                f"in each of {', '.join(group.nested_in)}" * bool(group.nested_in),
            )
            for group in self.groups.values()
        ]
        leaves = [(leaf.path, str(leaf.shape), ", ".join(map(str, leaf.axes))) for leaf in self.leaves]
        parts = [("groups", groups), ("leaves", leaves), ("notes", [(note, "", "") for note in self.notes])]
        return html_table("PermSpec", [(heading, rows) for heading, rows in parts if rows])

    def __rich__(self) -> Table:
        title = f"{len(self.groups)} groups, {len(self.leaves)} leaves"
        table = Table("leaf", "shape", "axes", title=title, caption=escape("\n".join(self.notes)) or None)
        for leaf in self.leaves:
            axes = ", ".join(map(str, leaf.axes))
            table.add_row(escape(leaf.path), str(leaf.shape), escape(axes))
        return table

    def __str__(self) -> str:
        width = max((len(leaf.path) for leaf in self.leaves), default=0)
        lines = [f"PermSpec with {len(self.groups)} groups"]
        for group in self.groups.values():
            inside = f" in each of {', '.join(group.nested_in)}" if group.nested_in else ""
            lines.append(f"  {group.name}: {group.size} units{inside}")
        for leaf in self.leaves:
            axes = ", ".join(map(str, leaf.axes))
            lines.append(f"{leaf.path:<{width}}  {leaf.shape!s:<18}  [{axes}]")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def spec_from_json(data: Json) -> PermSpec:
    """Read a spec that fits together: names once, sizes that agree, groups and stacks that are there."""
    parts = data.fields("groups", "leaves", "stacks", "notes", "sites", optional=("program",))
    groups = [_group_from_json(group) for group in parts["groups"].items()]
    leaves = []
    for leaf in parts["leaves"].items():
        fields = leaf.fields("path", "axes")
        leaves.append(LeafSpec(fields["path"].text(), axes_from_json(fields["axes"])))
    sites = [Site.from_json(site) for site in parts["sites"].items()]
    stacks = {name: size.integer() for name, size in parts["stacks"].mapping().items()}
    notes = tuple(note.text() for note in parts["notes"].items())
    program = parts["program"].text() if "program" in parts else ""  # specs of before 0.8 have none
    for name, names in (
        ("groups", [group.name for group in groups]),
        ("leaves", paths := [leaf.path for leaf in leaves]),
        ("sites", [site.name for site in sites]),
    ):
        parts[name].require(len({*names}) == len(names), "a list without one name twice")
    for site in sites:
        parts["sites"].require(site.leaf in paths, "of leaves of the spec", f"There is no {site.leaf!r}.")
    axes = [axis for place in (*leaves, *sites) for axis in place.axes]
    try:
        spec = PermSpec(
            tuple(leaves), {g.name: g for g in groups}, None, stacks, notes, tuple(sites), program
        )
        _check_terms(axes, spec)
    except ValueError as why:
        raise data.error(f"{data.source}: {why}") from None
    return spec


def _group_from_json(data: Json) -> Group:
    fields = data.fields("name", "size", "nested_in", "combined")
    nested_in = tuple(outer.text() for outer in fields["nested_in"].items())
    combined = fields["combined"].one_of(("product", "sum", None))
    return Group(fields["name"].text(), fields["size"].integer(), nested_in, combined)


def _check_terms(axes: Sequence[Axis], spec: PermSpec) -> None:
    """Raise ValueError if a group is not what its parts make, or a stack is missing or of another size."""
    parts: dict[str, dict[int, int]] = {name: {} for name in spec.groups}
    for term in (term for axis in axes for block in axis.blocks for term in terms_of(block)):
        stack, size = term.stack, len(term.members) if isinstance(term, Family) else term.size
        require(
            stack is None or spec.stacks.get(stack) == size,
            "PermSpec", f"stack {stack!r}", f"of size {size}, as in an axis", spec.stacks.get(stack or ""),
        )  # fmt: skip
        if isinstance(term, Factor) and term.group is not None:
            require(term.group in parts, "PermSpec", "axes", "of groups of the spec", repr(term.group))
            known = parts[term.group].setdefault(term.part, size)
            require(
                known == size, "PermSpec", f"part {term.part} of {term.group!r}", f"of size {known}", size
            )
    for name, sizes in parts.items():
        group = spec.groups[name]
        whole = {"product": math.prod, "sum": sum, None: max}[group.combined](sizes.values() or [group.size])
        require(
            whole == group.size, "PermSpec", f"group {name!r}", f"of size {whole}, as axes have", group.size
        )


def _check_axis(path: str, number: int, axis: Axis, groups: Mapping[str, Group]) -> None:
    if bool(axis.groups) != (axis.role is not None):
        raise ValueError(
            f"PermSpec: {path} axis {number} must have a role exactly if it carries a group; "
            f"got role {axis.role!r} and groups {list(axis.groups)}."
        )
    for factor in (f for f in axis.factors if f.group is not None):
        group = groups.get(factor.group or "")
        fits = group is not None and (group.size == factor.size or group.combined is not None)
        if not fits:
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
