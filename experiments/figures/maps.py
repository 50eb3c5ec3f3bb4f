"""Fig. 6, 8 and 9: activation maps of A, B and the merged network (paper, D.1 and D.3)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.evaluation.activation_maps import ActivationMaps, activation_maps
from autofusion_jax.symmetry.site import Site
from autofusion_jax.types import Params
from configs import kmnist_vgg, mnist_vgg
from data.splits import generator
from figures.permutations import LEARNED, REBASIN
from figures.schema import Contents, Drawing, Figure, FigurePanel, file_name, titled
from pipeline.endpoints import Pair
from reporting.activation_figure import MapRow, activation_figure

NETWORKS = ("A", "B", "merged")
KINDS = {"grad_cam": "Grad-CAM", "gradient_x_input": "gradient x input"}


def draw(drawing: Drawing, per_task: int) -> Contents:
    """Draw one picture for every layer and merged network: rows inputs, columns input, A, B, merged."""
    pair = drawing.run.pair(0)
    chosen = _choose(pair, per_task)
    x, classes = pair.run.test_x[chosen], jnp.asarray(pair.run.dataset.test_labels[chosen])
    sites = {site.leaf.removeprefix("params/").rpartition("/")[0]: site
             for site in pair.spec.sites if site.position == "pre"}  # fmt: skip
    parents = [_seen(pair, params, x, classes, sites) for params in (pair.params_a, pair.params_b)]
    panels, kind = [], ""
    for row in drawing.figure.rows:
        for network in drawing.merge(pair, drawing.row(row)):
            networks = [*parents, _seen(pair, network.params, x, classes, sites)]
            name = titled(row, network.variant)
            for layer in sites:
                kind = KINDS[networks[0][1][layer].kind]
                rows = _rows(pair, x, classes, [(probs, maps[layer]) for probs, maps in networks])
                title = f"{pair.run.config.name}, {layer}\nmerged by {name}"
                panel = FigurePanel(file_name(layer, name), _alt(rows, kind, layer, name), layer, name)
                panels.append(drawing.save(activation_figure(rows, NETWORKS, title=title), panel))
    caption = (
        f"What speaks for the true class of each input: {kind} of its logit, less the mean of all logits, "
        "at a layer (after the ReLU, before pooling), brought to the size of the input; the white line is "
        "the outline of the input. Every map is relative to its own largest value, so brightness does not "
        "compare between networks, and a black map has nothing that speaks for the class. Below each map "
        "what the network answers, and its probability. One random test image of each class (seed "
        f"{pair.split.seed}), those of task A first; A never saw those of task B, and the other way round. "
        "The paper does not say how its maps were made."
    )
    return Contents(caption, panels)


def _choose(pair: Pair, per_task: int) -> np.ndarray:
    """One test image of each of the first classes of either task, drawn at random."""
    labels, rng = pair.run.dataset.test_labels, generator("maps", pair.split.seed)
    classes = [c for task in pair.split.tasks for c in task[:per_task]]
    return np.array([rng.choice(np.flatnonzero(labels == c)) for c in classes])


def _seen(
    pair: Pair, params: Params, x: Array, classes: Array, sites: dict[str, Site]
) -> tuple[np.ndarray, dict[str, ActivationMaps]]:
    """A network's probabilities, and its maps by layer."""
    probs = np.asarray(jax.nn.softmax(pair.run.model.apply(params, x)))
    maps = {
        layer: activation_maps(pair.spec, params, x, classes, site=site, relative=True)
        for layer, site in sites.items()
    }
    return probs, maps


def _rows(
    pair: Pair, x: Array, classes: Array, networks: Sequence[tuple[np.ndarray, ActivationMaps]]
) -> list[MapRow]:
    rows = []
    for i, c in enumerate(map(int, classes)):
        task = "A" if c in pair.split.tasks[0] else "B"
        notes = tuple(f"says {p[i].argmax()} ({100 * p[i].max():.0f} %)" for p, _ in networks)
        maps = tuple(np.asarray(m.values[i]) for _, m in networks)
        rows.append(MapRow(f"class {c}\n(task {task})", np.asarray(x[i]), maps, notes))
    return rows


def _alt(rows: Sequence[MapRow], kind: str, layer: str, name: str) -> str:
    parts = []
    for row in rows:
        blank = [n for n, values in zip(NETWORKS, row.maps) if not values.max() > 0]
        empty = f"; blank: {', '.join(blank)}" if blank else ""
        answers = ", ".join(f"{n} {note}" for n, note in zip(NETWORKS, row.notes))
        label = row.label.replace("\n", " ")
        parts.append(f"{label}: {answers}{empty}")
    return (
        f"{kind} at {layer}: for each input a row of pictures: the input, then heat maps of A, of B and of "
        f"the network merged by {name}. {'. '.join(parts)}."
    )


def _figure(name: str, title: str, config, per_task: int, rows) -> Figure:
    return Figure(name, title, (config,), rows, functools.partial(draw, per_task=per_task), LEARNED[1:])


FIGURE_6 = _figure(
    "6", "Activation maps before and after merging (paper, Fig. 6)", mnist_vgg.get_config, 3, LEARNED[1:]
)
FIGURE_8 = _figure(
    "8", "Activation maps on MNIST (paper, Fig. 8)", mnist_vgg.get_config, 5, (REBASIN, *LEARNED)
)
FIGURE_9 = _figure(
    "9", "Activation maps on KMNIST (paper, Fig. 9)", kmnist_vgg.get_config, 5, (REBASIN, *LEARNED)
)
