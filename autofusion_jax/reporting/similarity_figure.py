"""A drawing of numbers by layer: one line a comparison, with its spread over pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from autofusion_jax.reporting.figures import DASHES, PALETTE

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "d")

Line = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation, each `[layers]`."""


def layers_figure(
    panels: Mapping[str, Mapping[str, Line]], layers: Sequence[str], *, title: str, ylabel: str
) -> Figure:
    """Draw lines over the layers of a network, panels side by side with one legend.

    Args:
        panels: heading -> label -> line; a label has one colour in all panels.
        layers: names of the layers.
        title: what was compared, and on what.
        ylabel: what the numbers are.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    figure = Figure(figsize=(5.5 * len(panels) + 0.5, 5.4), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    places, shown = np.arange(len(layers)), {}
    for panel, (heading, lines) in zip(axes, panels.items()):
        for label, (mean, spread) in lines.items():
            i = labels.index(label)
            shift = 0.06 * (i - (len(labels) - 1) / 2) / max(len(labels) - 1, 1)
            shown[label] = panel.errorbar(
                places + 4 * shift, mean, yerr=spread if np.any(spread > 0) else None, capsize=2,
                color=PALETTE[i % len(PALETTE)], linestyle=DASHES[i % len(DASHES)],
                marker=MARKERS[i % len(MARKERS)], markersize=5, linewidth=1.6,
            )  # fmt: skip
        panel.set(title=heading, xlabel="layer", xticks=places, xticklabels=layers, ylim=(-0.1, 1.05))
        panel.grid(alpha=0.25)
        panel.axhline(0, color="0.5", linewidth=0.8)
    axes[0].set_ylabel(ylabel)
    figure.suptitle(title)
    handles = [shown[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)
    return figure
