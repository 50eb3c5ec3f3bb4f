"""Axes of parameter leaves as ordered products of factors, and how to write them by hand.

An axis is a concatenation of blocks; a block is an ordered product of factors, outermost
first; a factor either carries a group or is fixed. A flattened `[H, W, C]` axis that carries
group `conv_3` on its channels is one block `(fixed H) x (fixed W) x (conv_3)`.
"""

import dataclasses
import math
from typing import Literal

Role = Literal["in", "out"]


@dataclasses.dataclass(frozen=True)
class Factor:
    """One factor of an axis: `size` positions that carry `group`, or are fixed if it is None."""

    size: int
    group: str | None = None

    def __str__(self) -> str:
        return f"{self.group}:{self.size}" if self.group else str(self.size)


Block = tuple[Factor, ...]


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
        return sum(block_size(block) for block in self.blocks)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this axis carries, each once, in order."""
        named = [f.group for block in self.blocks for f in block if f.group is not None]
        return tuple(dict.fromkeys(named))

    def __str__(self) -> str:
        text = " + ".join(" x ".join(map(str, block)) for block in self.blocks)
        return f"{self.role} {text}" if self.role else text


def block_size(block: Block) -> int:
    """The number of positions of a block: the product of its factors' sizes."""
    return math.prod(factor.size for factor in block)


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
