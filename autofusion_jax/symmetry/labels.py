"""Labels of axes, from which the tracer learns which axes must be in one order.

An axis is a list of factors, outermost first. A factor is an integer (the value is constant
along it, so it agrees with anything) or a `Label`, a union-find node that is refined in place:
whoever holds it sees every later split. A label is

    leaf      an axis of which nothing more is known
    link      the same as another label
    product   several factors, outermost first
    concat    several axes, one after the other
    family    one axis for each index along another label, its key (Q, K and V under a 3)

and may be fixed: then no unit of it may move.

What an operation pairs position by position becomes the same label (`unify`): factors meet from the innermost
outward, the larger one is split by the smaller, concatenations meet in their common refinement, and
factorisations that clash are fixed, as are axes whose order an operation depends on (`pin`). In words:
docs/theory/symmetries.md.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, Union

Kind: TypeAlias = Literal["leaf", "link", "product", "concat", "family"]
Factors: TypeAlias = list[Union[int, "Label"]]

MAX_FAMILY = 8
"""Inner factors get labels of their own per index of an outer factor up to this size."""

_ids = itertools.count()


class Label:
    """A node of the union-find structure; see the module.

    Attributes:
        id: unique, in order of creation.
        size: number of positions.
        kind: which of the kinds above.
        parts: the axes it consists of: one for a product, several for a concat or family.
        fixed: whether its units must stay where they are.
        reason: why it was fixed.
        key: for a family, the label whose index chooses the part.
        target: for a link, the label that it is the same as.
    """

    __slots__ = ("fixed", "id", "key", "kind", "parts", "reason", "size", "target")

    def __init__(self, size: int, *, fixed: bool = False, reason: str = "") -> None:
        self.id = next(_ids)
        self.size = int(size)
        self.kind: Kind = "leaf"
        self.parts: list[Factors] = []
        self.fixed = fixed
        self.reason = reason
        self.key: Label | None = None
        self.target: Label | None = None

    def link_to(self, other: "Label") -> None:
        """Become the same as another label."""
        # a link keeps no parts: they would be refined apart from those of the label it stands for
        self.kind, self.parts, self.key, self.target = "link", [], None, other

    def become(self, kind: Kind, parts: Sequence[Factors], key: "Label | None" = None) -> "Label":
        """Refine this label in place."""
        self.kind, self.parts, self.key = kind, [list(part) for part in parts], key
        return self

    def __repr__(self) -> str:
        inside = "" if self.kind == "leaf" else f"{self.kind}{self.parts}"
        return f"{'#' if self.fixed else 'g'}{self.id}:{self.size}{inside}"


def find(label: Label) -> Label:
    """Follow links to the label that stands for all that were joined with this one."""
    # two loops and no recursion: a chain of links is as long as the network is deep
    root = label
    while root.target is not None:
        root = root.target
    while label.target is not None:  # path compression
        label.target, label = root, label.target
    return root


def size_of(factor: int | Label) -> int:
    """The number of positions of a factor."""
    return factor if isinstance(factor, int) else factor.size


def total(axis: Sequence[int | Label]) -> int:
    """The number of positions of an axis."""
    return math.prod(size_of(factor) for factor in axis)


def resolve(axis: Sequence[int | Label]) -> Factors:
    """Follow links, expand products, drop size 1, and merge neighbouring constants."""
    out: Factors = []
    for factor in axis:
        # products are looked through, so split and unify meet constants, leaves, concats and families only
        parts: Sequence[int | Label] = [factor]
        if not isinstance(factor, int):
            label = find(factor)
            if label.kind == "product" or (label.kind == "concat" and len(label.parts) == 1):
                # written back, or each equation would walk through all splits before it
                parts = label.parts[0] = resolve(label.parts[0])  # path compression
            else:
                parts = [label]
        for part in parts:
            # one position has no order: [1, n] and [n] must compare as the same axis
            if size_of(part) == 1:
                continue
            if isinstance(part, int) and out and isinstance(out[-1], int):
                out[-1] *= part
            else:
                out.append(part)
    return out


def labels_of(axis: Sequence[int | Label]) -> list[Label]:
    """The labels among an axis' resolved factors."""
    return [factor for factor in resolve(axis) if not isinstance(factor, int)]


def is_constant(axis: Sequence[int | Label]) -> bool:
    """Tell whether the value is constant along the axis."""
    return not labels_of(axis)


def blocks_of(label: Label) -> list[Factors]:
    """The resolved blocks of a concatenation, those of its concatenated blocks included."""
    out = []
    for part in label.parts:
        # a concat inside a concat is laid flat, so that two of them can be walked in step
        block = resolve(part)
        if len(block) == 1 and not isinstance(block[0], int) and block[0].kind == "concat":
            out += blocks_of(block[0])
        # an empty block has no position to meet another at
        elif total(part):
            out.append(block)
    return out


def fixed_axis(size: int, reason: str) -> Factors:
    """A new axis of which nothing may move."""
    return [Label(size, fixed=True, reason=reason)] if size != 1 else []


def pin(axis: Sequence[int | Label], reason: str) -> None:
    """Fix an axis and all that it consists of; labels keep their identity, which nesting needs."""
    for factor in axis:
        if isinstance(factor, int):
            continue
        label = find(factor)
        # a fixed composite is walked again: a part may have been refined since, and nesting reads the parts
        if label.fixed and label.kind == "leaf":
            continue
        if not label.fixed:
            label.fixed, label.reason = True, reason
        for part in label.parts:
            # the first reason stays: it is the cause, later ones are what follows from it
            pin(part, label.reason)


def named(axis: Sequence[int | Label]) -> Factors:
    """Give every constant factor a label of its own, so that it can be refined in place."""
    return [*(Label(factor) if isinstance(factor, int) else factor for factor in axis)]


def concatenate(blocks: Sequence[Factors]) -> Factors:
    """The axis that consists of `blocks`, one after the other."""
    if len(blocks) == 1:
        return list(blocks[0])
    # a block of one position resolves to no factor, but the blocks after it start one position later
    parts = [named(block or [1]) for block in blocks]
    return [Label(sum(map(total, parts))).become("concat", parts)]


def family(key: Label, members: Sequence[Factors]) -> Label:
    """An inner factor whose label depends on the index along `key`."""
    return Label(total(members[0])).become("family", members, key)


def select(axis: Sequence[int | Label], key: Label, index: int) -> Factors:
    """Replace every family over `key` by its member `index`."""
    out: Factors = []
    for factor in resolve(axis):
        if isinstance(factor, int):
            out.append(factor)
        elif factor.kind == "family" and same_key(factor, key):
            # the member may hold families over the same key, joined to it later
            out += select(factor.parts[index], key, index)
        elif factor.kind == "concat" and has_family([factor]):
            # a new concat: the old one stands for all indices, and must not be refined for one of them
            out += concatenate([select(block, key, index) for block in blocks_of(factor)])
        else:
            out.append(factor)
    return out


def same_key(label: Label, key: Label) -> bool:
    """Tell whether the family `label` depends on the index along `key`."""
    assert label.key is not None
    own = resolve([label.key])
    return len(own) == 1 and own[0] is find(key)


def has_family(axis: Sequence[int | Label]) -> bool:
    """Tell whether a family occurs on the axis."""
    return any(
        label.kind == "family" or (label.kind == "concat" and any(map(has_family, blocks_of(label))))
        for label in labels_of(axis)
    )
