"""A drawing of a permutation spec: its layers, the axes of their leaves, and the groups as lanes."""

import collections
import dataclasses
import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from autofusion_jax.reporting.figures import PALETTE, save_figure
from autofusion_jax.reporting.records import write_text
from autofusion_jax.symmetry.axes import Axis, Block, Concat, Factor, Family, Role
from autofusion_jax.symmetry.spec import Group, LeafSpec, PermSpec

# Lengths are in inches, text sizes in points.
COLORS = PALETTE[:-1]  # black is for text
FIXED, INK, FAINT, RULE = "#D9D9D9", "#222222", "#707070", "#E4E4E4"
TEXT, SMALL, TITLE = 8.0, 6.5, 11.0
CELL, LINE, PAD, GAP, LANE = 0.19, 0.25, 0.05, 0.1, 0.2
MARGIN, LEAVES_WIDTH = 0.25, 6.0
DPI, MAX_PIXELS = 140, 16_000


@dataclasses.dataclass(frozen=True)
class Piece:
    """A factor of an axis, drawn as a cell, or a sign between factors."""

    text: str
    sign: bool = False
    group: str | None = None
    role: Role | None = None
    last: bool = False

    @property
    def width(self) -> float:
        """Its width with the space after it."""
        cell = 0.0 if self.sign else 0.1
        return max(0.09 if self.sign else 0.19, _width(self.text, TEXT) + cell) + (0.1 if self.last else 0.02)


@dataclasses.dataclass(frozen=True)
class Box:
    """A leaf: its name and shape, then its pieces at `(x, line)` from its corner."""

    leaf: LeafSpec
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """The last key of its path."""
        return self.leaf.path.rpartition("/")[2]

    @property
    def shape(self) -> str:
        """Its shape, `3×3×16×32`."""
        return "×".join(map(str, self.leaf.shape)) or "scalar"

    @functools.cached_property
    def places(self) -> list[tuple[float, int]]:
        """Where its pieces are."""
        left = max(_width(self.name, TEXT), _width(self.shape, SMALL)) + 2 * PAD + 0.04
        return [(left + x, line) for x, line in _flow([p.width for p in self.pieces], LEAVES_WIDTH - left)]

    @functools.cached_property
    def size(self) -> tuple[float, float]:
        """Its width and height."""
        ends = [x + p.width for (x, _), p in zip(self.places, self.pieces)]
        lines = 1 + max((line for _, line in self.places), default=0)
        left = max(_width(self.name, TEXT), _width(self.shape, SMALL)) + 2 * PAD
        return max([left, *ends]), lines * LINE + 2 * PAD - 0.02
