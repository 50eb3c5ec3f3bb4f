"""The layout of the drawing of a permutation spec. Lengths in inches, sizes of text in points."""

import dataclasses
import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from autofusion_jax.plots.canvas import PALETTE
from autofusion_jax.symmetry.axes import Axis, Block, Concat, Factor, Role
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec

FONT = "DejaVu Sans"
COLORS = PALETTE[:-1]  # black is for text
TEXT, SMALL, TITLE = 8.0, 6.5, 12.0
CELL, LINE, PAD, GAP, LANE, LABEL, MARGIN = 0.19, 0.23, 0.04, 0.1, 0.2, 0.16, 0.25
MAX_LEAVES, MIN_WIDTH = 6.5, 6.0
HINTING = 1.02  # small text on a screen is a little wider than in print
LAYERS_HEAD, LEAVES_HEAD, GROUPS_HEAD = "layer (forward pass ↓)", "leaves: one cell per axis", "groups"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A factor of an axis, drawn as a cell, or a sign between two factors.

    Attributes:
        text: what is written.
        sign: whether it is a sign.
        group: the group that the cell carries; None if it is fixed.
        role: in which role.
        space: what follows it.
    """

    text: str
    sign: bool = False
    group: str | None = None
    role: Role | None = None
    space: float = 0.02

    @property
    def width(self) -> float:
        """Its width, without what follows."""
        return text_width(self.text) + 0.02 if self.sign else max(CELL, text_width(self.text) + 0.1)


@dataclasses.dataclass(frozen=True)
class Box:
    """A leaf: its name above its shape, then the cells of its axes, over as many lines as they need."""

    leaf: LeafSpec

    @functools.cached_property
    def head(self) -> tuple[str, str]:
        """Its name (the last key of its path) and its shape."""
        return self.leaf.path.rpartition("/")[2], "×".join(map(str, self.leaf.shape)) or "scalar"

    @functools.cached_property
    def left(self) -> float:
        """The left edge of its cells."""
        return max(text_width(self.head[0]), text_width(self.head[1], SMALL)) + PAD + 0.12

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """The cells and signs of all axes."""
        return [piece for axis in self.leaf.axes for piece in _axis_pieces(axis)]

    @functools.cached_property
    def places(self) -> list[tuple[float, float]]:
        """The places of its pieces: left edge and middle, from its corner."""
        steps = [(piece.width + piece.space, LINE) for piece in self.pieces]
        return [(self.left + x, PAD + y + LINE / 2) for x, y in flow(steps, MAX_LEAVES - self.left - PAD)]

    @functools.cached_property
    def size(self) -> tuple[float, float]:
        """Its width and height."""
        ends = [x + piece.width for (x, _), piece in zip(self.places, self.pieces)]
        lowest = max((y for _, y in self.places), default=PAD + LINE / 2)
        return max([self.left - 0.12, *ends]) + PAD + 0.02, lowest + LINE / 2 + PAD


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer: its boxes and where they lie, the groups it carries, those it is the first to carry."""

    layer: str
    boxes: tuple[Box, ...]
    places: list[tuple[float, float]]
    roles: Mapping[str, set[Role | None]]
    first: tuple[str, ...]
    top: float
    height: float

    @property
    def middle(self) -> float:
        """The height at which its dots lie."""
        return self.top + self.height / 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """The whole drawing.

    Attributes:
        columns: left edges of the layers, the leaves, the lanes and the names of the groups.
        size: width and height.
        rows: one for each layer.
        lanes: group -> number of its lane.
        colors: group -> colour.
        key: cells and signs with what they mean, and where they lie.
        notes: the notes of the spec, in lines.
    """

    columns: tuple[float, float, float, float]
    size: tuple[float, float]
    rows: tuple[Row, ...]
    lanes: Mapping[str, int]
    colors: Mapping[str, str]
    key: list[tuple[Piece, str, tuple[float, float]]]
    notes: list[str]


@functools.lru_cache(maxsize=8192)
def text_width(text: str, size: float = TEXT, weight: str = "normal") -> float:
    """The width of a text."""
    font = FontProperties(family=FONT, size=size, weight=weight)
    return HINTING * text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def flow(
    sizes: Sequence[tuple[float, float]], limit: float, *, gap: float = 0.0, leading: float = 0.0
) -> list[tuple[float, float]]:
    """Put things of these widths and heights side by side, on a new line where `limit` is passed."""
    places, x, y, tallest = [], 0.0, 0.0, 0.0
    for width, height in sizes:
        if x > 0 and x + width > limit:
            x, y, tallest = 0.0, y + tallest + leading, 0.0
        places.append((x, y))
        x, tallest = x + width + gap, max(tallest, height)
    return places


def label(spec: PermSpec, name: str) -> tuple[str, str]:
    """The text beside a group's first dot: its name, and its size and nesting."""
    group = spec.groups[name]
    sizes = {**spec.stacks, **{outer: spec.groups[outer].size for outer in spec.groups}}
    size = " × ".join(str(n) for n in (*(sizes[outer] for outer in group.nested_in), group.size))
    nested = f", nested in {', '.join(group.nested_in)}" if group.nested_in else ""
    parts = f", a {group.combined} of parts" if group.combined else ""
    return name, f"{size}{nested}{parts}"


def lay_out(spec: PermSpec, title: str) -> Layout:
    """Lay out the drawing of a spec under this title."""
    rows = _rows(spec)
    spans = _spans(rows)
    lanes = _lanes(spans)
    layers = max(text_width(text, weight="bold") for text in (LAYERS_HEAD, *(row.layer for row in rows)))
    ends = [x + box.size[0] for row in rows for (x, _), box in zip(row.places, row.boxes)]
    leaves = MARGIN + layers + 2 * GAP
    first_lane = leaves + max([text_width(LEAVES_HEAD, weight="bold"), *ends]) + 3 * GAP
    names = first_lane + LANE * len(set(lanes.values())) + GAP
    labels = [text_width("  ".join(label(spec, name))) + 2 * GAP for name in spec.groups]
    width = max(names + max([0.0, *labels]), MARGIN + text_width(title, TITLE, "bold"), MIN_WIDTH) + MARGIN
    key = _key(spec, width - 2 * MARGIN)
    top = max([0.0, *(y for *_, (_, y) in key)]) + 0.6
    rows = tuple(dataclasses.replace(row, top=row.top + top) for row in rows)
    bottom = rows[-1].top + rows[-1].height if rows else top
    notes = [line for note in spec.notes for line in textwrap.wrap(f"note: {note}", int(width * 13))]
    height = bottom + MARGIN + (0.17 * len(notes) + 0.1 if notes else 0)
    columns = MARGIN, leaves, first_lane, names
    return Layout(columns, (width, height), rows, lanes, _colors(rows, spans, lanes), key, notes)


def _axis_pieces(axis: Axis) -> list[Piece]:
    pieces = list(_joined("+", [_block_pieces(block, axis.role) for block in axis.blocks]))
    return [*pieces[:-1], dataclasses.replace(pieces[-1], space=GAP)]


def _block_pieces(block: Block, role: Role | None) -> list[Piece]:
    terms = []
    for term in block or (Factor(1),):
        if isinstance(term, Factor):
            mark = term.stack.rpartition("/")[2] if term.stack else term.part if term.group else 0
            text = f"{term.size}[{mark}]" if mark else f"{term.size}"
            terms.append([Piece(text, group=term.group, role=role if term.group else None)])
        else:
            blocks, signs = (term.blocks, "(+)") if isinstance(term, Concat) else (term.members, "{|}")
            inner = _joined(signs[1], [_block_pieces(block, role) for block in blocks])
            terms.append([Piece(signs[0], sign=True), *inner, Piece(signs[2], sign=True)])
    return list(_joined("×", terms))


def _joined(sign: str, parts: Sequence[Sequence[Piece]]) -> Iterator[Piece]:
    for number, part in enumerate(parts):
        if number:
            yield Piece(sign, sign=True)
        yield from part


def _rows(spec: PermSpec) -> list[Row]:
    rows, seen, top = [], set(), 0.0
    for layer in spec.layers:
        leaves = [leaf for leaf in spec.leaves if leaf.layer == layer]
        boxes = tuple(map(Box, leaves))
        places = flow([box.size for box in boxes], MAX_LEAVES, gap=GAP, leading=0.06)
        roles: dict[str, set[Role | None]] = {}
        for axis in (axis for leaf in leaves for axis in leaf.axes):
            for group in axis.groups:
                roles.setdefault(group, set()).add(axis.role)
        first = tuple(group for group in roles if group not in seen)
        seen.update(first)
        lowest = max(y + box.size[1] for (_, y), box in zip(places, boxes))
        height = max(lowest, LABEL * len(first)) + 0.08
        places = [(x, y + (height - lowest) / 2) for x, y in places]
        rows.append(Row(layer, boxes, places, roles, first, top, height))
        top += height
    return rows


def _spans(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        for group in row.roles:
            spans[group] = spans.get(group, (number, number))[0], number
    return {name: spans[name] for name in sorted(spans, key=lambda name: spans[name][0])}


def _lanes(spans: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """The leftmost lane that is free from the row before a group's first to its last."""
    lanes: dict[str, int] = {}
    ends: list[int] = []
    for group, (first, last) in spans.items():
        lane = next((n for n, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        lanes[group] = lane
    return lanes


def _colors(
    rows: Sequence[Row], spans: Mapping[str, tuple[int, int]], lanes: Mapping[str, int]
) -> dict[str, str]:
    """The colour that is rarest in the group's layers, then in lanes beside and above it, then of late."""
    colors: dict[str, str] = {}
    layers: dict[str, set[str]] = {}
    for row in rows:
        for group in row.roles:
            layers.setdefault(group, set()).update(row.roles)
    for group, (first, last) in spans.items():
        in_layers = [color for other, color in colors.items() if other in layers[group]]
        beside = [c for other, c in colors.items() if spans[other][0] <= last and spans[other][1] >= first]
        above = [color for other, color in colors.items() if lanes[other] == lanes[group]][-1:]
        recent = list(colors.values())[::-1]
        ranks = {
            color: (
                in_layers.count(color), (beside + above).count(color),
                -recent.index(color) if color in recent else -len(recent),
            )
            for color in COLORS
        }  # fmt: skip
        colors[group] = min(ranks, key=ranks.__getitem__)
    return colors


def _key(spec: PermSpec, limit: float) -> list[tuple[Piece, str, tuple[float, float]]]:
    """The key to the cells and signs that occur."""
    group = next(iter(spec.groups), None)
    factors = [factor for leaf in spec.leaves for axis in leaf.axes for factor in axis.factors]
    text = " ".join(str(axis) for leaf in spec.leaves for axis in leaf.axes)
    entries = (
        (Piece("n", group=group, role="out"), "out: the leaf produces it", bool(group)),
        (Piece("n", group=group, role="in"), "in: the leaf reads it", bool(group)),
        (
            Piece("n[k]", group=group, role="out"),
            "part k of a group",
            any(f.group and f.part for f in factors),
        ),
        (Piece("n"), "fixed: nothing may move", any(f.group is None and not f.stack for f in factors)),
        (Piece("n[stack]"), "fixed, groups differ along it", any(f.stack for f in factors)),
        (Piece("×", sign=True), "product, outermost first", " x " in text),
        (Piece("+", sign=True), "concatenation", " + " in text),
        (Piece("|", sign=True), "one for each index of the stack", " | " in text),
    )
    occurring = [(piece, means) for piece, means, occurs in entries if occurs]
    sizes = [(piece.width + 0.06 + text_width(means), LINE) for piece, means in occurring]
    places = flow(sizes, limit, gap=0.25)
    return [
        (piece, means, (MARGIN + x, MARGIN + 0.45 + y)) for (piece, means), (x, y) in zip(occurring, places)
    ]
