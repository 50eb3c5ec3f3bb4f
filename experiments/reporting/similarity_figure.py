"""A drawing of numbers by layer: one line a comparison, with its spread over pairs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from autofusion_jax.plots.canvas import PALETTE
from reporting.figures import DASHES

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "d")

Line = tuple[np.ndarray, np.ndarray | None]
"""Mean, and standard deviation if there is one, each `[layers]`."""


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
    lines_of_all = [line for lines in panels.values() for line in lines.values()]
    lowest = min(float(np.nanmin(mean if spread is None else mean - spread)) for mean, spread in lines_of_all)
    for panel, (heading, lines) in zip(axes, panels.items()):
        for label, (mean, spread) in lines.items():
            i = labels.index(label)
            shift = 0 if spread is None else 0.2 * ((i + 0.5) / len(labels) - 0.5)
            shown[label] = panel.errorbar(
                places + shift, mean, yerr=spread, capsize=2,
                color=PALETTE[i % len(PALETTE)], linestyle=DASHES[i % len(DASHES)],
                marker=MARKERS[i % len(MARKERS)], markersize=5, linewidth=1.6,
            )  # fmt: skip
        panel.set(title=heading, xlabel="layer", xticks=places, xticklabels=layers)
        panel.set_ylim(np.floor(10 * lowest - 0.5) / 10, 1.05)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel(ylabel)
    figure.suptitle(title)
    handles = [shown[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)
    return figure
