"""A drawing of a permutation spec: its layers, the axes of their leaves, and the groups as lanes."""

import io
from collections.abc import Sized
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from autofusion_jax.atomic import write_text
from autofusion_jax.plots.canvas import save_figure
from autofusion_jax.plots.spec_layout import (
    CELL,
    FONT,
    GAP,
    GROUPS_HEAD,
    LABEL,
    LANE,
    LAYERS_HEAD,
    LEAVES_HEAD,
    MARGIN,
    PAD,
    SMALL,
    TEXT,
    TITLE,
    Box,
    Layout,
    Piece,
    Row,
    label,
    lay_out,
    text_width,
)
from autofusion_jax.symmetry.axes import Role
from autofusion_jax.symmetry.spec import PermSpec

LIGHT = ("#E69F00", "#56B4E9", "#CC79A7")  # those of the colours that take dark text
FIXED, INK, FAINT, RULE, SHADE = "#DADADA", "#222222", "#6B6B6B", "#C4C4C4", "#F3F5F8"
DPI, MAX_PIXELS = 140, 16_000
TOOLTIP = "leaf:"  # then its path: the id of the invisible cover of a leaf's box


def draw_perm_spec(spec: PermSpec, path: str | Path, *, title: str = "") -> None:
    """Write the drawing of a spec (`perm_spec_figure`) to a file, whole or not at all.

    Args:
        spec: the spec.
        path: the file, `.png` or `.svg`. In an SVG the leaves have their paths and axes as tooltips.
        title: the heading; by default the numbers of groups and leaves.

    Raises:
        ValueError: `path` ends in something else.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"draw_perm_spec: path must end in .png or .svg; got {str(path)!r}.")
    figure = perm_spec_figure(spec, title=title)
    if path.suffix == ".png":
        save_figure(figure, path)
    else:
        _save_svg(figure, path, spec)


def perm_spec_figure(spec: PermSpec, *, title: str = "") -> Figure:
    """Draw the layers of a network, the axes of their leaves, and the groups that these carry.

    Layers stand from top to bottom in the order of the forward pass. Every leaf is a box with a cell for
    each axis: filled with a group's colour where the leaf produces the group, framed in it where the
    leaf reads it, grey where nothing may move. Every group is a lane from the first layer that carries
    it to the last, with a dot, filled or open, for each that does; its name stands beside the first.
    Colours repeat; within a layer they do only if it carries more groups than there are colours.

    Args:
        spec: the spec.
        title: the heading; by default the numbers of groups and leaves.
    """
    title = title or f"{_count(spec.groups, 'permutation group')}, {_count(spec.leaves, 'leaf', 'leaves')}"
    layout = lay_out(spec, title)
    width, height = layout.size
    figure = Figure(figsize=layout.size, dpi=min(DPI, MAX_PIXELS / max(width, height)))
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set(xlim=(0, width), ylim=(height, 0))
    panel.set_axis_off()
    for number, row in enumerate(layout.rows):
        _draw_row(panel, layout, row, shaded=number % 2 == 0)
    _draw_lanes(panel, layout)
    _draw_names(panel, layout, spec)
    _draw_frame(panel, layout, title)
    return figure


def _count(things: Sized, one: str, several: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else several or one + 's'}"


def _write(panel: Axes, x: float, y: float, text: str, **style: Any) -> None:
    style = {"size": TEXT, "color": INK, "va": "center_baseline", "family": FONT, **style}
    panel.text(x, y, text, parse_math=False, zorder=5, **style)


def _draw_frame(panel: Axes, layout: Layout, title: str) -> None:
    """The title, the key, the headings of the columns, the notes."""
    _write(panel, MARGIN, MARGIN + 0.08, title, size=TITLE, weight="bold")
    for piece, means, (x, y) in layout.key:
        _draw_piece(panel, layout, piece, x, y)
        _write(panel, x + piece.width + 0.06, y, means, color=FAINT)
    heads = (LAYERS_HEAD, LEAVES_HEAD, GROUPS_HEAD if layout.lanes else "")
    for x, text in zip(layout.columns, heads if layout.rows else ()):
        _write(panel, x, layout.rows[0].top - 0.13, text, weight="bold")
    for number, line in enumerate(reversed(layout.notes)):
        _write(panel, MARGIN, layout.size[1] - MARGIN - 0.17 * number, line, color=FAINT)


def _draw_row(panel: Axes, layout: Layout, row: Row, *, shaded: bool) -> None:
    _, left, lanes, _ = layout.columns
    if shaded:
        size = layout.size[0] - MARGIN, row.height
        panel.add_patch(Rectangle((MARGIN / 2, row.top), *size, color=SHADE, lw=0, zorder=0))
    parent, slash, name = row.layer.rpartition("/")
    end = left - 2 * GAP
    _write(panel, end, row.middle, name, ha="right", weight="bold")
    end -= text_width(name, weight="bold") + 0.006
    _write(panel, end, row.middle, parent + slash, ha="right", color=FAINT)
    for box, (x, y) in zip(row.boxes, row.places):
        _draw_box(panel, layout, box, left + x, row.top + y)
    if row.roles:
        begin = left + max(x + box.size[0] for (x, _), box in zip(row.places, row.boxes)) + 0.04
        last = lanes + LANE * (max(layout.lanes[group] for group in row.roles) + 0.5)
        panel.plot([begin, last], [row.middle, row.middle], color=RULE, lw=0.7, zorder=1)


def _draw_box(panel: Axes, layout: Layout, box: Box, x: float, y: float) -> None:
    width, height = box.size
    frame = FancyBboxPatch(
        (x + 0.02, y + 0.02), width - 0.04, height - 0.04, boxstyle="round,pad=0.02,rounding_size=0.04",
        facecolor="white", edgecolor=RULE, lw=0.7, zorder=2,
    )  # fmt: skip
    panel.add_patch(frame)
    panel.add_patch(Rectangle((x, y), width, height, alpha=0, zorder=6, gid=TOOLTIP + box.leaf.path))
    name, shape = box.head
    _write(panel, x + PAD + 0.02, y + height / 2 - 0.055, name)
    _write(panel, x + PAD + 0.02, y + height / 2 + 0.065, shape, size=SMALL, color=FAINT)
    for piece, (dx, dy) in zip(box.pieces, box.places):
        _draw_piece(panel, layout, piece, x + dx, y + dy)


def _draw_piece(panel: Axes, layout: Layout, piece: Piece, x: float, y: float) -> None:
    color = FIXED if piece.group is None else layout.colors[piece.group]
    ink = INK
    if not piece.sign:
        filled = piece.role != "in"
        ink = INK if piece.group is None or not filled or color in LIGHT else "white"
        inset = 0.0 if filled else 0.011
        cell = Rectangle(
            (x + inset, y - CELL / 2 + inset), piece.width - 2 * inset, CELL - 2 * inset, zorder=3,
            facecolor=color if filled else "white", edgecolor=color, lw=0 if filled else 1.6,
        )  # fmt: skip
        panel.add_patch(cell)
    _write(panel, x + piece.width / 2, y, piece.text, ha="center", color=ink)


def _draw_lanes(panel: Axes, layout: Layout) -> None:
    for group, lane in layout.lanes.items():
        x, color = layout.columns[2] + LANE * (lane + 0.5), layout.colors[group]
        rows = [row for row in layout.rows if group in row.roles]
        panel.plot([x, x], [rows[0].middle, rows[-1].middle], color=color, lw=1.6, zorder=2)
        for row in rows:
            _draw_dot(panel, x, row.middle, color, row.roles[group])


def _draw_dot(panel: Axes, x: float, y: float, color: str, roles: set[Role | None]) -> None:
    """Filled for a layer that makes the group, open for one that reads it, a ring around it for both."""
    open_dot = {"marker": "o", "ls": "", "color": color, "mfc": "white", "mew": 1.5}
    if "in" in roles:
        panel.plot([x], [y], ms=8.5 if "out" in roles else 6, zorder=3, **open_dot)
    if "out" in roles:
        panel.plot([x], [y], marker="o", ls="", color=color, ms=4 if "in" in roles else 7, mew=0, zorder=4)


def _draw_names(panel: Axes, layout: Layout, spec: PermSpec) -> None:
    """The names of the groups, beside the layer that first carries them."""
    for row in layout.rows:
        for number, group in enumerate(row.first):
            x, y = layout.columns[3], row.middle + LABEL * (number - (len(row.first) - 1) / 2)
            name, size = label(spec, group)
            dot = {"marker": "s", "ms": 5.5, "mew": 0, "color": layout.colors[group]}
            panel.plot([x], [y], ls="", zorder=4, **dot)
            _write(panel, x + GAP, y, name)
            _write(panel, x + GAP + text_width(name + "  "), y, size, color=FAINT)


def _save_svg(figure: Figure, path: Path, spec: PermSpec) -> None:
    """Write a figure as SVG, text as text, tooltips on the leaves, whole or not at all."""
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "autofusion_jax"}):
        FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})
    text = drawn.getvalue()
    for leaf in spec.leaves:
        opening = f"<g id={quoteattr(TOOLTIP + leaf.path)}>"
        tooltip = f"{leaf.path} {leaf.shape}: [{', '.join(map(str, leaf.axes))}]"
        text = text.replace(opening, f"{opening}\n<title>{escape(tooltip)}</title>")
    write_text(path, text)
