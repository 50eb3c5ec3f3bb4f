"""Operations on labels: split an axis, make two axes the same, cut one in two."""

from collections.abc import Sequence

from autofusion_jax.symmetry.labels import (
    MAX_FAMILY,
    Factors,
    Label,
    blocks_of,
    concatenate,
    family,
    find,
    fixed_axis,
    labels_of,
    named,
    pin,
    resolve,
    same_key,
    size_of,
    total,
)

UNALIGNED = "split across a boundary of its factors"


def _split_label(factor: int | Label, inner: int) -> tuple[Factors, Factors] | None:
    """Split one factor into an outer and an inner part of `inner` positions, None if impossible."""
    size = size_of(factor)
    if size % inner:
        return None
    if isinstance(factor, int):
        return [size // inner], [inner]
    label = find(factor)
    if label.kind == "leaf":
        return _split_leaf(label, inner)
    if label.kind == "family":
        assert label.key is not None
        # all members are split at one place, or the halves would differ in size from index to index
        halves = [split(named(part), inner) for part in label.parts]
        outers = family(label.key, [outer for outer, _ in halves])
        inners = family(label.key, [inner for _, inner in halves])
        # in place: other values that hold the family see the same two halves
        label.become("product", [[outers, inners]])
        return [outers], [inners]
    return _split_concat(label, inner)


def _split_leaf(label: Label, inner: int) -> tuple[Factors, Factors]:
    count = label.size // inner
    outer = Label(count, fixed=label.fixed, reason=label.reason)
    # an inner label for each outer index, as Q, K and V under a 3 meet different axes later. Where the
    # outer units can move, `nesting.settle` makes them one again; one label can still be nested
    if not label.fixed and 1 < count <= MAX_FAMILY:
        within = family(outer, [[Label(inner)] for _ in range(count)])
    else:
        # too many indices to follow, or nothing that could move: the halves inherit what is known
        within = Label(inner, fixed=label.fixed, reason=label.reason)
    label.become("product", [[outer, within]])
    return [outer], [within]


def _split_concat(label: Label, inner: int) -> tuple[Factors, Factors]:
    count, blocks = label.size // inner, blocks_of(label)
    # an inner factor common to all blocks exists only if each block is a multiple of it
    if label.fixed or any(total(block) % inner for block in blocks):
        pin([label], UNALIGNED)
        return fixed_axis(count, UNALIGNED), fixed_axis(inner, UNALIGNED)
    outers, within = [], None
    for block in blocks:
        outer, rest = split(named(block), inner)
        outers.append(outer)
        # position i of the inner axis is read in every block, so the blocks' inner factors are one
        within = rest if within is None else unify(within, rest)
    assert within is not None
    # each block is one outer index: to reorder these would swap the operands of the concatenation
    if all(total(outer) == 1 for outer in outers):
        order = fixed_axis(count, "the order of concatenated blocks")
    else:
        order = concatenate(outers)
    label.become("product", [[*order, *within]])
    return list(order), list(within)


def split(axis: Sequence[int | Label], inner: int) -> tuple[Factors, Factors]:
    """Split an axis into outer factors and inner ones of `inner` positions in all.

    Where `inner` is not a boundary of the factors, the whole axis becomes fixed.
    """
    halves = try_split(axis, inner)
    if halves is None:
        pin(axis, UNALIGNED)
        return fixed_axis(total(axis) // inner, UNALIGNED), fixed_axis(inner, UNALIGNED)
    return halves


def try_split(axis: Sequence[int | Label], inner: int) -> tuple[Factors, Factors] | None:
    """As `split`, but None where `inner` is not a boundary of the factors."""
    left, within, need = resolve(axis), [], inner
    # innermost factor first: axes are row-major, so the inner part is made of the last factors.
    # `need` is the number of positions of it that are still to be found
    while need > 1:
        factor = left.pop()
        parts = resolve([factor])
        if len(parts) != 1:
            # an earlier step refined this factor while it waited: take its parts instead
            left += parts
            continue
        size = size_of(factor)
        if need % size == 0:
            within.insert(0, factor)
            need //= size
            continue
        # the boundary lies inside this factor; only if the sizes divide does it split there
        halves = _split_label(factor, need) if size % need == 0 else None
        if halves is None:
            return None
        left += halves[0]
        within = halves[1] + within
        need = 1
    return left, within


def unify(first: Sequence[int | Label], second: Sequence[int | Label]) -> Factors:
    """Make two axes of one size the same, and return it; where they clash, both become fixed."""
    # factors meet from the innermost outward: their strides are then equal, so equal sizes mean equal
    # positions; invariant: what is left of both sides has one size
    left, right, out = resolve(first), resolve(second), []
    assert total(left) == total(right), (left, right)
    while left and right:
        # resolved anew: joining the factors before may have split or linked these two
        ours, theirs = resolve([left.pop()]), resolve([right.pop()])
        if len(ours) != 1 or len(theirs) != 1:
            left += ours
            right += theirs
            continue
        f, g = ours[0], theirs[0]
        if size_of(f) == size_of(g):
            out.insert(0, _join(f, g))
            continue
        big, small = (f, g) if size_of(f) > size_of(g) else (g, f)
        # the larger is split at the smaller's size, and its inner half meets the smaller in the next round
        halves = _split_label(big, size_of(small))
        if halves is None:
            # 4 x 6 against 6 x 4: no permutation but the identity is known to respect both. All factors
            # are pinned, those that did meet included: coarse, but safe
            reason = "two ways of splitting it clash"
            pin(first, reason)
            pin(second, reason)
            return fixed_axis(total(first), reason)
        (left if big is f else right).extend(halves[0] + halves[1])
        (right if big is f else left).append(small)
    return resolve(out)


def _join(f: int | Label, g: int | Label) -> int | Label:
    """Make two factors of one size the same."""
    if isinstance(f, int) or isinstance(g, int):
        # constant along it: equal entries agree with any order, and the label stays as free as it was
        return g if isinstance(f, int) else f
    f, g = find(f), find(g)
    if f is g:
        return f
    for a, b in ((f, g), (g, f)):  # occurs check: a family meets one of its own members
        if b.kind == "family" and _inside(a, [b]):
            # linked as it is, the label would be a part of itself and resolving it would never end
            return _one(unify(collapse(b), [a]))
    if f.fixed or g.fixed:
        # before linking: a link drops its parts, and they would stay free
        pin([f], g.reason)
        pin([g], f.reason)
    if f.kind == "leaf":
        # the one of which nothing is known gives way, so that what is known of the other is kept
        f.link_to(g)
        return g
    # of two fixed composites either may stand for both: nothing in them moves any more
    if g.kind == "leaf" or f.fixed:
        if g.kind == "leaf":
            g.link_to(f)
        return f
    return _join_composite(f, g)


def _join_composite(f: Label, g: Label) -> int | Label:
    if f.kind == g.kind == "family" and f.key is not None and same_key(g, f.key):
        # one key: index by index, so that Q meets Q only and stays apart from K and V
        members = [unify(a, b) for a, b in zip(f.parts, g.parts)]
        if f.kind == g.kind == "family":  # joining the members may have collapsed one of them
            f.parts = members
            g.link_to(f)
            return f
    # different keys, or a family against a concat: that both fit at every index is known only if all members
    # are the same
    collapsed = False
    for label in (f, g):
        if label.kind == "family":
            collapse(label)
            collapsed = True
    if not collapsed and f.kind == g.kind == "concat":
        return _join_concats(f, g)
    # a collapsed family has become a product or a leaf, so the next round meets one level below
    return _one(unify([f], [g]))


def _join_concats(f: Label, g: Label) -> Label:
    """Two concatenations meet in their common refinement."""
    ours, theirs, out = blocks_of(f)[::-1], blocks_of(g)[::-1], []
    while ours and theirs:
        p, q = ours.pop(), theirs.pop()
        # both blocks start at one position; cutting the longer keeps it so in the next round
        size = min(total(p), total(q))
        if total(p) > size:
            p, rest = cut(p, size)
            ours.append(rest)
        if total(q) > size:
            q, rest = cut(q, size)
            theirs.append(rest)
        # constants get labels: a block has to be there to be refined or fixed later
        out.append(named(unify(p, q)) or [Label(1)])
    # f may have been taken apart by the cuts: the common refinement is what both stand for
    f.become("concat", out)
    g.link_to(f)
    return f


def _one(axis: Factors) -> int | Label:
    """An axis as a single factor."""
    return axis[0] if len(axis) == 1 else Label(total(axis)).become("product", [axis])


def _inside(label: Label, axis: Sequence[int | Label]) -> bool:
    return any(
        f is label
        or (f.kind == "family" and any(_inside(label, part) for part in f.parts))
        or (f.kind == "concat" and any(_inside(label, block) for block in blocks_of(f)))
        for f in labels_of(axis)
    )


def collapse(label: Label) -> Factors:
    """Make all members of a family the same."""
    axis = label.parts[0]
    for part in label.parts[1:]:
        axis = unify(axis, part)
    if label.kind == "family":
        # the members turned out to be the family itself: then it is one axis of which nothing more is known
        circular = not resolve(axis) or any(f is label for f in axis)
        if circular:
            label.become("leaf", [])
        else:
            label.become("product", [axis])
    return axis


def cut(axis: Sequence[int | Label], position: int) -> tuple[Factors, Factors]:
    """Cut an axis in two at `position`; it becomes fixed if that is inside a factor."""
    axis = resolve(axis)
    size, first, rest = total(axis), axis[0], axis[1:]
    # a cut is made in the outermost factor; the inner ones are whole in both parts
    inner = total(rest)
    if position % inner:
        reason = "cut inside a factor"
        pin(axis, reason)
        # both parts hold pieces of one unit of the outer factor: no reordering moves both alike
        return fixed_axis(position, reason), fixed_axis(size - position, reason)
    if rest:
        left, right = cut([first], position // inner)
        return left + rest, right + rest
    if isinstance(first, int):
        return [position], [size - position]
    return _cut_label(find(first), position)


def _cut_label(label: Label, position: int) -> tuple[Factors, Factors]:
    if label.kind == "leaf":
        sizes = (position, label.size - position)
        halves: list[Factors] = [[Label(n, fixed=label.fixed, reason=label.reason)] for n in sizes]
        # in place: whoever holds the whole axis must see that units do not cross the cut
        label.become("concat", halves)
        return halves[0], halves[1]
    if label.kind == "family":
        assert label.key is not None
        # all members at one place, and the key stays: each half still depends on the index
        pieces = [cut(part, position) for part in label.parts]
        left: Factors = [family(label.key, [piece for piece, _ in pieces])]
        right: Factors = [family(label.key, [piece for _, piece in pieces])]
        label.become("concat", [left, right])
        return left, right
    blocks, start = blocks_of(label), 0
    for number, block in enumerate(blocks):
        # at a boundary nothing is refined: the slice is made of whole blocks
        if start == position:
            return concatenate(blocks[:number]), concatenate(blocks[number:])
        if start + total(block) > position:
            left, right = cut(block, position - start)
            return concatenate([*blocks[:number], left]), concatenate([right, *blocks[number + 1 :]])
        start += total(block)
    raise AssertionError("position lies beyond the axis")


def take_range(axis: Sequence[int | Label], start: int, stop: int) -> Factors:
    """The part of an axis from `start` to `stop`, which must not be empty."""
    if stop < total(axis):
        axis = cut(axis, stop)[0]
    if start > 0:
        axis = cut(axis, start)[1]
    return list(axis)
