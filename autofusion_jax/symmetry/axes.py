"""Axes of parameter leaves as ordered products of factors, and functions to write them by hand.

An axis is a concatenation of blocks; a block is an ordered product of factors, outermost
first; a factor either carries a group or is fixed. A flattened `[H, W, C]` axis that carries
group `conv_3` on its channels is one block `(fixed H) x (fixed W) x (conv_3)`. Inside a block
a factor may itself be a concatenation (`heads x (query + key + value)`), or a choice that
depends on the index along a fixed factor elsewhere in the leaf (`Family`).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

from autofusion_jax.json_reader import Json

Role = Literal["in", "out"]


@dataclasses.dataclass(frozen=True)
class Factor:
    """One factor of an axis: `size` positions that carry `group`, or are fixed if it is None.

    Attributes:
        size: number of positions.
        group: the group that it carries.
        part: which of the group's parts, for a group that consists of several.
        stack: for a fixed factor, its name, if groups are nested in it or families depend on it.
    """

    size: int
    group: str | None = None
    part: int = 0
    stack: str | None = None

    def __str__(self) -> str:
        if self.group:
            return f"{self.group}:{self.size}" + (f"[{self.part}]" if self.part else "")
        return f"{self.size}" + (f"[{self.stack}]" if self.stack else "")


@dataclasses.dataclass(frozen=True)
class Concat:
    """A factor that consists of blocks, one after the other."""

    blocks: tuple["Block", ...]

    @property
    def size(self) -> int:
        """The number of positions: the sum over the blocks."""
        return sum(map(block_size, self.blocks))

    def __str__(self) -> str:
        return "(" + " + ".join(map(block_str, self.blocks)) + ")"


@dataclasses.dataclass(frozen=True)
class Family:
    """A factor whose block depends on the index along the fixed factor named `stack`."""

    stack: str
    members: tuple["Block", ...]

    @property
    def size(self) -> int:
        """The number of positions, the same for every member."""
        return block_size(self.members[0])

    def __str__(self) -> str:
        return "{" + " | ".join(map(block_str, self.members)) + "}"


Term: TypeAlias = Factor | Concat | Family
Block: TypeAlias = tuple[Term, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of one leaf: concatenated blocks of factors, and the role in which it acts.

    Attributes:
        blocks: the blocks, in order along the axis; each an ordered product of factors.
        role: `"out"` if the leaf produces the groups on this axis, `"in"` if it consumes
            them, None if the axis carries no group.
    """

    blocks: tuple[Block, ...]
    role: Role | None = None

    @property
    def size(self) -> int:
        """The length of the axis."""
        return sum(map(block_size, self.blocks))

    @property
    def factors(self) -> tuple[Factor, ...]:
        """All factors, those inside of concatenations and families included, in order."""
        return tuple(factor for block in self.blocks for factor in factors_of(block))

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this axis carries, each once, in order."""
        return tuple(dict.fromkeys(f.group for f in self.factors if f.group is not None))

    @property
    def block(self) -> Block:
        """The axis as one block."""
        return self.blocks[0] if len(self.blocks) == 1 else (Concat(self.blocks),)

    def __str__(self) -> str:
        text = " + ".join(map(block_str, self.blocks))
        return f"{self.role} {text}" if self.role else text


def block_size(block: Block) -> int:
    """The number of positions of a block: the product of its factors' sizes."""
    return math.prod(term.size for term in block)


def block_str(block: Block) -> str:
    """A block as text, `3 x 3 x conv_3:64`."""
    return " x ".join(map(str, block)) if block else "1"


def factors_of(block: Block) -> Iterator[Factor]:
    """All factors of a block, in order, at any depth."""
    return (term for term in terms_of(block) if isinstance(term, Factor))


def terms_of(block: Block) -> Iterator[Factor | Family]:
    """All factors and families of a block, in order, at any depth."""
    for term in block:
        if not isinstance(term, Concat):
            yield term
        if not isinstance(term, Factor):
            for inner in term.blocks if isinstance(term, Concat) else term.members:
                yield from terms_of(inner)


def axes_to_json(axes: tuple[Axis, ...]) -> list[Any]:
    """Axes as plain lists and dicts."""

    def term(item: Term) -> Any:
        if isinstance(item, Factor):
            return [item.size, item.group, item.part, item.stack]
        if isinstance(item, Concat):
            return {"concat": [list(map(term, block)) for block in item.blocks]}
        return {"stack": item.stack, "members": [list(map(term, block)) for block in item.members]}

    return [{"role": axis.role, "blocks": [list(map(term, b)) for b in axis.blocks]} for axis in axes]


def axes_from_json(data: Json) -> tuple[Axis, ...]:
    """Read what `axes_to_json` wrote."""

    def block(items: Json) -> Block:
        return tuple(map(term, items.items()))

    def factor(item: Json) -> Factor:
        parts = item.items()
        item.require(len(parts) == 4, "[size, group, part, stack]")
        size, group, part, stack = parts
        names = (None if name.value is None else name.text() for name in (group, stack))
        return Factor(size.integer(), next(names), part.integer(), next(names))

    def term(item: Json) -> Term:
        if isinstance(item.value, list):
            return factor(item)
        if "concat" in item.mapping():
            return Concat(tuple(map(block, item.fields("concat")["concat"].items())))
        fields = item.fields("stack", "members")
        members = tuple(map(block, fields["members"].items()))
        fields["members"].require(len({*map(block_size, members)}) == 1, "blocks of one size")
        return Family(fields["stack"].text(), members)

    def axis(item: Json) -> Axis:
        fields = item.fields("role", "blocks")
        blocks = tuple(map(block, fields["blocks"].items()))
        return Axis(blocks, fields["role"].one_of((*get_args(Role), None)))

    return tuple(map(axis, data.items()))


def fixed_axis(size: int) -> Axis:
    """An axis of which nothing may move."""
    return Axis(blocks=((Factor(size),),))


@dataclasses.dataclass(frozen=True)
class AxisPattern:
    """An axis as a person writes it: group names and fixed sizes; sizes of groups come later."""

    blocks: tuple[tuple[int | str, ...], ...]
    role: Role

    def __add__(self, other: "AxisPattern") -> "AxisPattern":
        """Concatenate two patterns of one role along the axis."""
        if self.role != other.role:
            raise ValueError(f"axis pattern: both parts must be {self.role!r}; got {other.role!r}.")
        return AxisPattern(self.blocks + other.blocks, self.role)


def out_axis(*factors: int | str) -> AxisPattern:
    """Write an axis on which a leaf produces groups: `out_axis("conv_0")`.

    Args:
        factors: outermost first; a string names a group, an integer is a fixed factor.
    """
    return AxisPattern((factors,), "out")


def in_axis(*factors: int | str) -> AxisPattern:
    """Write an axis on which a leaf consumes groups: `in_axis(3, 3, "conv_3")`.

    Args:
        factors: outermost first; a string names a group, an integer is a fixed factor.
    """
    return AxisPattern((factors,), "in")


def resolve_pattern(pattern: AxisPattern | None, size: int, sizes: dict[str, int]) -> Axis | None:
    """Turn a pattern into an `Axis` of `size` positions, learning at most one group's size.

    Args:
        pattern: what was written; None for a fixed axis.
        size: the length of the leaf's axis.
        sizes: the group sizes known so far; a size that follows from this axis is added.

    Returns:
        The axis, or None while more than one size on it is unknown.
    """
    if pattern is None:
        return fixed_axis(size)
    unknown = {f for block in pattern.blocks for f in block if isinstance(f, str) and f not in sizes}
    if len(unknown) == 1 and len(pattern.blocks) == 1:
        known = math.prod(sizes.get(f, 1) if isinstance(f, str) else f for f in pattern.blocks[0])
        count = sum(1 for f in pattern.blocks[0] if f in unknown)
        if count == 1 and known > 0 and size % known == 0:
            sizes[unknown.pop()] = size // known
    if unknown:
        return None
    blocks = tuple(
        tuple(Factor(sizes[f], f) if isinstance(f, str) else Factor(f) for f in block)
        for block in pattern.blocks
    )
    return Axis(blocks, pattern.role)
