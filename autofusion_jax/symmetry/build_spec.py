"""Immutable specs from labels: groups with names, axes with roles."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from autofusion_jax.symmetry.axes import Axis, Block, Concat, Factor, Family, Role, Term, block_size
from autofusion_jax.symmetry.labels import Factors, Label, blocks_of, labels_of, resolve
from autofusion_jax.symmetry.nesting import Structure
from autofusion_jax.symmetry.spec import Group
from autofusion_jax.symmetry.trace import Tracer

COLLECTION = "params/"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter leaf while the program is traced: its number, its path, its axes."""

    number: int
    path: str
    axes: list[Factors]

    @property
    def layer(self) -> str:
        """The module that owns it, as groups are named: without the collection and the last key."""
        return (self.path.rpartition("/")[0] or self.path).removeprefix(COLLECTION)


class Frozen:
    """The groups of a settled trace, and the way to write any of its axes with them.

    Attributes:
        groups: by name, in the order in which leaves carry them.
        stacks: name -> size of the fixed factors that matter.
    """

    def __init__(self, leaves: Sequence[Leaf], structure: Structure, tracer: Tracer) -> None:
        self._structure = structure
        self._tracer = tracer
        # all labels of a product or sum share one list, so that they get one name and a place in it
        self._members: dict[int, list[int]] = {}
        for members in (*structure.products, *structure.sums):
            self._members.update(dict.fromkeys(members, members))
        keys = _keys(leaves)
        self._places, self._sizes = _places(leaves, keys)
        # leaves come in the order of first use, so groups do as well: the spec reads like the network
        self._order = {label: number for number, label in enumerate(self._places)}
        # batch axes of products of two live values: in attention these are the heads
        self._heads = {label.id for axis in tracer.pairs for label in labels_of(axis)}
        self._names: dict[int, str] = {}
        self._used: set[str] = set()
        # a label that is in no record cannot be shown to be free
        self._fixed = {i for i in self._places if i not in structure.labels or structure.labels[i].fixed}
        free = [i for i in self._places if i not in self._fixed]
        # of two labels nested in each other neither is outer: they are one group over their product
        self._outers = {
            o
            for i in free
            for o in structure.outer[i]
            if o in self._fixed or i not in structure.outer.get(o, ())
        }
        # fixed labels get a name only where something is nested in them or chosen by them: a stack
        named = {*free, *self._outers, *keys}
        for label in self._places:
            if label in named and label not in self._names:
                name = self._unique(self._name(label))
                self._names.update(dict.fromkeys(self._members.get(label, [label]), name))
        self.groups = {group.name: group for group in map(self._group, self._representatives(free))}
        self.stacks = {self._names[i]: self._sizes[i] for i in self._names if i in self._fixed}

    def _representatives(self, free: list[int]) -> Iterator[int]:
        """One label of every group; the order of the parts is that of their first places."""
        done: set[int] = set()
        for label in free:
            if label not in done:
                members = self._members.get(label, [label])
                # in place: `_terms` takes a label's part from its place in this list
                members.sort(key=lambda i: self._order.get(i, len(self._order)))
                done.update(members)
                yield label

    def _group(self, label: int) -> Group:
        members = self._members.get(label, [label])
        outer = self._structure.outer[label] - set(members)
        # outermost first: a label is nested in all that its outer ones are nested in
        order = sorted(outer, key=lambda i: (len(self._structure.outer[i]), self._order[i]))
        nested_in = tuple(dict.fromkeys(self._names[i] for i in order))
        sizes = [self._sizes[i] for i in members]
        # sums before products: both have several members, and a label is in one of them at most
        if members in self._structure.sums:
            return Group(self._names[label], sum(sizes), nested_in, "sum")
        if len(members) > 1:
            return Group(self._names[label], math.prod(sizes), nested_in, "product")
        return Group(self._names[label], sizes[0], nested_in)

    def _name(self, label: int) -> str:
        """A group is named after the layer that produces it, and its place in a nesting."""
        places = [place for member in self._members.get(label, [label]) for place in self._places[member]]
        # readers give the name only where no leaf makes the group
        makers = [leaf for leaf, axis in places if self._tracer.role(leaf.number, axis) != "in"]
        layers = list(dict.fromkeys(leaf.layer for leaf in makers)) or [places[0][0].layer]
        outer = self._structure.outer
        if label in self._fixed:
            return f"{layers[0]}.stack"
        # heads are made by Q, K and V together: named after the module around them
        if label in self._outers and label in self._heads:
            return f"{_common(layers)}.heads"
        if label in self._outers:
            return f"{layers[0]}.groups"
        if any(o in self._heads and o not in self._fixed for o in outer[label]):
            return f"{layers[0]}.head_dim"
        nested = any(o not in self._fixed and o not in self._members.get(label, ()) for o in outer[label])
        return f"{layers[0]}.units" if nested else layers[0]

    def _unique(self, name: str) -> str:
        found, number = name, 2
        while found in self._used:
            found, number = f"{name}_{number}", number + 1
        self._used.add(found)
        return found

    def axis(self, axis: Factors, role: Role | None) -> Axis:
        """Write a traced axis with the names of groups and stacks."""
        block = self._block(axis)
        blocks = block[0].blocks if len(block) == 1 and isinstance(block[0], Concat) else (block,)
        frozen = Axis(tuple(b or (Factor(1),) for b in blocks))
        return dataclasses.replace(frozen, role=role) if frozen.groups else frozen

    def _block(self, axis: Factors) -> Block:
        terms: list[Term] = []
        for factor in resolve(axis):
            for term in (Factor(factor),) if isinstance(factor, int) else self._terms(factor):
                # fixed factors side by side move as little as their product: [2, 3] is [6]
                if _plain(term) and terms and _plain(terms[-1]):
                    terms[-1] = Factor(terms[-1].size * term.size)
                else:
                    terms.append(term)
        return tuple(terms)

    def _terms(self, label: Label) -> Block:
        name = self._names.get(label.id)
        if name is not None and label.id in self._fixed:
            return (Factor(label.size, stack=name),)
        if name is not None:
            return (Factor(label.size, name, self._members.get(label.id, [label.id]).index(label.id)),)
        if label.kind == "concat":
            return _merged([self._block(block) or (Factor(1),) for block in blocks_of(label)])
        if label.kind == "family":
            members = [self._block(part) for part in label.parts]
            if all(member == members[0] for member in members):
                return members[0]
            assert label.key is not None
            return (
                Family(self._names[labels_of([label.key])[0].id], tuple(m or (Factor(1),) for m in members)),
            )
        return (Factor(label.size),)


def _plain(term: Term) -> bool:
    """Tell whether a term is a fixed factor without a name."""
    return isinstance(term, Factor) and term.group is None and term.stack is None


def _merged(blocks: list[Block]) -> Block:
    """A concatenation whose neighbouring fixed blocks are one."""
    out: list[Block] = []
    for block in blocks:
        # neighbouring blocks in which nothing moves are one block, or the spec would list paddings
        if out and all(map(_plain, (*out[-1], *block))):
            out[-1] = (Factor(block_size(out[-1]) + block_size(block)),)
        else:
            out.append(block)
    return out[0] if len(out) == 1 else (Concat(tuple(out)),)


def _places(
    leaves: Sequence[Leaf], keys: set[int]
) -> tuple[dict[int, list[tuple[Leaf, int]]], dict[int, int]]:
    """Label id -> the leaves and axes that carry it, in order; and its size."""
    places: dict[int, list[tuple[Leaf, int]]] = {}
    sizes: dict[int, int] = {}
    for leaf in leaves:
        for number, axis in enumerate(leaf.axes):
            for label in _all_labels(axis):
                # composites are written by their leaves; keys are named as a whole, for families to refer to
                if label.kind == "leaf" or label.id in keys:
                    places.setdefault(label.id, []).append((leaf, number))
                    sizes[label.id] = label.size
    return places, sizes


def _all_labels(axis: Factors) -> Iterator[Label]:
    for label in labels_of(axis):
        yield label
        for part in label.parts:
            yield from _all_labels(part)


def _keys(leaves: Sequence[Leaf]) -> set[int]:
    """Ids of the labels that families with movable members depend on."""
    families = (
        label
        for leaf in leaves
        for axis in leaf.axes
        for label in _all_labels(axis)
        if label.kind == "family"
        and any(part.kind == "leaf" and not part.fixed for part in _all_labels([label]))
    )
    return {key.id for label in families for key in labels_of([label.key or 1])}


def _common(layers: list[str]) -> str:
    """The module that all layers belong to, or the first of them if there is none."""
    split = [layer.split("/") for layer in layers]
    shared = []
    for parts in zip(*split):
        # the first level at which the paths part
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared) or layers[0]
