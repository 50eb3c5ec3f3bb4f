"""Colours of all figures, and the writing of a figure to a file."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from autofusion_jax.atomic import new_file

# Okabe and Ito's colour-blind-safe palette, grey for its yellow; lines differ in dash as well.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#808080")
COLORS = 256


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of 256 colours, a third of the size of one of all, whole or not at all."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture = picture.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with new_file(path) as part:
        picture.save(part, format="PNG", optimize=True)
