"""Groups from labels: nesting, products and sums, derived from which labels occur together.

A label b is nested in a label a (units of b may be permuted differently for each index along
a) if in every record that has b, a occurs exactly once. Two labels nested in each other are
one group over their product. Labels that only ever occur as interchangeable blocks of the
same concatenations (the two zero paddings of a shortcut) are one group over their sum.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from autofusion_jax.symmetry.labels import (
    Factors,
    Label,
    blocks_of,
    find,
    has_family,
    labels_of,
    pin,
    resolve,
    same_key,
    select,
    total,
)
from autofusion_jax.symmetry.trace import Record
from autofusion_jax.symmetry.unify import collapse

Alternative = tuple[int, ...]
"""Ids of the labels that occur together in one block of a factor."""

Slot = tuple[Alternative, ...]
"""One factor of a value: its blocks if it is a concatenation, else a single alternative."""


def families_of(axis: Factors) -> Iterator[Label]:
    """All families on an axis, those inside of concatenations included."""
    for label in labels_of(axis):
        if label.kind == "family":
            yield label
        elif label.kind == "concat":
            for block in blocks_of(label):
                yield from families_of(block)


def _movable(label: Label) -> bool:
    if label.fixed:
        return False
    if label.kind != "concat":
        return label.kind == "leaf"
    return any(total(b) > 1 and any(map(_movable, labels_of(b))) for b in blocks_of(label))


def settle(records: Sequence[Record]) -> None:
    """Collapse the families that cannot be kept apart, until none is left.

    A family stands only where its key occurs exactly once, is no family itself, and is fixed.
    """
    # a collapse joins labels, which can take away what another family stands on: until nothing changes
    pending = [r for r in records if any(map(has_family, r.axes))]
    while sum(_settle(record.axes) for record in pending):  # all of them, not up to the first
        pending = [r for r in pending if any(map(has_family, r.axes))]


def _settle(axes: list[Factors]) -> bool:
    families = [label for axis in axes for label in families_of(axis)]
    if not families:
        return False
    count = collections.Counter(label.id for axis in axes for label in labels_of(axis))
    changed = False
    for label in families:
        key = _key(label)
        # collapsing another family of this record has reached it already
        if find(label).kind != "family":
            continue
        # without its key in the value, or with two of them, no one index chooses the member; and if the
        # key's units move, they carry one member to the place of another, so all must be the same
        if key is None or count[key.id] != 1 or key.kind == "family" or _movable(key):
            collapse(find(label))
            changed = True
    if changed:
        return True
    # the families that stand may hold others: these must stand at every index. `sum`, as in `settle`
    return sum(_settle(member) for member in _members(axes)) > 0


def _key(label: Label) -> Label | None:
    # the key may have been split since the family was made: then no single label chooses the member
    key = labels_of([label.key]) if label.key is not None else []
    return key[0] if len(key) == 1 and len(resolve([label.key or 1])) == 1 else None


def _members(axes: list[Factors]) -> list[list[Factors]]:
    """The axes for each index along the first family's key, the key itself left out."""
    first = next(label for axis in axes for label in families_of(axis))
    key = _key(first)
    assert key is not None
    assert same_key(first, key)
    return [
        # at one index the key is constant, so it takes no part in the nesting there
        [[f for f in select(axis, key, index) if f is not key] for axis in axes]
        for index in range(key.size)
    ]


def _expand(axes: list[Factors]) -> Iterator[list[Factors]]:
    if not any(map(has_family, axes)):
        # the records that `find_structure` reads have no families: one for each combination of indices
        yield axes
        return
    for member in _members(axes):
        yield from _expand(member)


def _slots(axes: Sequence[Factors], labels: dict[int, Label]) -> tuple[Slot, ...]:
    slots = []
    for label in (label for axis in axes for label in labels_of(axis)):
        slot = tuple(_alternatives(label))
        for found in _leaves([label]):
            labels[found.id] = found
        slots.append(slot)
    # the order of axes says nothing about nesting; without it, most of thousands of records are equal
    return tuple(sorted(slots))


def _leaves(axis: Factors) -> Iterator[Label]:
    for label in labels_of(axis):
        if label.kind in ("concat", "family"):
            for block in label.parts:
                yield from _leaves(block)
        else:
            yield label


def _alternatives(label: Label) -> Iterator[Alternative]:
    if label.kind != "concat":
        yield (label.id,)
        return
    for block in blocks_of(label):
        # a position lies in one block, and there at one index of each factor of the block
        for choice in itertools.product(*(tuple(_alternatives(part)) for part in labels_of(block))):
            yield tuple(itertools.chain(*choice))


@dataclasses.dataclass
class Structure:
    """The relations between labels after all records were read.

    Attributes:
        labels: id -> label, for all that occur.
        outer: id -> ids of the labels that it is nested in.
        products: ids of labels that are one group over their product, by class.
        sums: ids of labels that are one group over their sum, by class.
    """

    labels: dict[int, Label]
    outer: dict[int, set[int]]
    products: list[list[int]]
    sums: list[list[int]]


def find_structure(records: Sequence[Record]) -> Structure:
    """Read all records, which must be settled."""
    labels: dict[int, Label] = {}
    used: dict[int, Label] = {}
    seen: dict[tuple[Slot, ...], None] = {}
    for record in records:
        for axes in _expand(record.axes):
            # a dict as an ordered set: the order of records decides that of groups, the same in every run
            seen.setdefault(_slots(axes, labels if record.is_leaf else used))
    # an axis that no value but its leaf has is read by nothing: any order of it would pass for a symmetry
    for label in (label for number, label in labels.items() if number not in used):
        pin([label], "not used")
    labels |= used
    outer: dict[int, set[int]] = {}
    for slots in seen:
        _narrow(slots, outer)
    sums = _sums(seen, labels, _inside_families(records))
    taken = {label for group in sums for label in group}
    return Structure(labels, outer, _products(outer, labels, taken), sums)


def _narrow(slots: tuple[Slot, ...], outer: dict[int, set[int]]) -> None:
    """Keep, for each label, only the others that this record has exactly once beside it."""
    low: collections.Counter[int] = collections.Counter()
    high: collections.Counter[int] = collections.Counter()
    # a slot with several blocks holds a label or not, depending on the block: count it at least `low` and at
    # most `high` times in the record
    ranges = []
    for slot in slots:
        counts = [collections.Counter(alternative) for alternative in slot]
        present = set().union(*counts)
        least = {label: min(count[label] for count in counts) for label in present}
        most = {label: max(count[label] for count in counts) for label in present}
        ranges.append((counts, least, most))
        low.update(least)
        high.update(most)
    for counts, least, most in ranges:
        for count in counts:
            for label in count:
                # candidates only ever become fewer, so the result does not depend on the order of the records
                known = outer.get(label)
                candidates = known if known is not None else {*count, *(c for c in low if low[c] > 0)}
                outer[label] = {
                    c
                    for c in candidates
                    # count[c] times in the block of this slot, low to high times in the other slots; only if
                    # that is once in every case does each unit of `label` have one index along c
                    if c != label
                    and count[c] + low[c] - least.get(c, 0) == 1
                    and count[c] + high[c] - most.get(c, 0) == 1
                }


def _products(outer: dict[int, set[int]], labels: dict[int, Label], taken: set[int]) -> list[list[int]]:
    classes: list[list[int]] = []
    done: set[int] = set()
    for label in outer:
        if label in done or label in taken or labels[label].fixed:
            continue
        # b permutes freely at each index of a, and a at each of b: together these generate all permutations
        # of the pairs, so the two are one group over their product
        mutual = [o for o in outer[label] if label in outer[o] and not labels[o].fixed and o not in taken]
        together = [label]
        for other in mutual:
            # every two of a class must be mutual, or it would not be one product
            if all(other in outer[one] and one in outer[other] for one in together):
                together.append(other)
        done.update(together)
        if len(together) > 1:
            classes.append(together)
    return classes


def _inside_families(records: Sequence[Record]) -> set[int]:
    return {
        label.id
        for record in records
        for axis in record.axes
        for member in families_of(axis)
        for part in member.parts
        for label in _leaves(part)
    }


def _sums(records: Iterable[tuple[Slot, ...]], labels: dict[int, Label], alone: set[int]) -> list[list[int]]:
    """Classes of labels whose places in all records are the same but for themselves, none `alone`."""
    places: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
    for number, slots in enumerate(records):
        for where, slot in enumerate(slots):
            # an axis of its own somewhere: there its units stand beside no other block to change places with
            if len(slot) == 1:
                alone.update(slot[0])
                continue
            for alternative in slot:
                for position, label in enumerate(alternative):
                    # what stands around the label: where that is the same everywhere, labels can be exchanged
                    place = (number, where, alternative[:position], alternative[position + 1 :])
                    places[label][place] += 1
    classes: dict[frozenset, list[int]] = {}
    for label, count in places.items():
        if label not in alone and not labels[label].fixed:
            classes.setdefault(frozenset(count.items()), []).append(label)
    return [group for group in classes.values() if len(group) > 1]
