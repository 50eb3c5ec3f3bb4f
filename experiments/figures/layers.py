"""How alike the networks are, layer by layer, before and after alignment and merging (for reviewers)."""

from typing import Any

import numpy as np

import autofusion_jax as af
from autofusion_jax.evaluation.similarity import network_similarity, output_sites
from autofusion_jax.symmetry.transform import permute
from autofusion_jax.types import Params
from configs import mnist_vgg
from figures.permutations import LEARNED, REBASIN
from figures.schema import (
    Contents,
    Curves,
    Drawing,
    Figure,
    FigurePanel,
    Series,
    merge_row,
    result_of,
    titled,
)
from pipeline.endpoints import Pair
from pipeline.engine import row_key, store_of
from pipeline.run_folder import evenly
from reporting.similarity_figure import Line, layers_figure

ROWS = (
    merge_row("interpolation", "plain average"),
    REBASIN,
    merge_row("activation_matching", "activation matching"),
    *LEARNED,
)
BEFORE = "before alignment"
BATCH = 250

Panels = dict[str, dict[str, Line]]
"""Heading of a panel -> label -> line."""


def draw(drawing: Drawing) -> Contents:
    """Measure every pair, and draw means with deviations over pairs."""
    pairs = [drawing.run.pair(number) for number in range(drawing.sizes.pairs)]
    measured = [_measure(drawing, pair) for pair in pairs]
    layers = list(pairs[0].spec.groups)
    table: Panels = {}
    for name in measured[0]:
        values = np.stack([one[name] for one in measured])  # [pairs, layers]
        spread = values.std(0, ddof=1) if len(values) > 1 else None
        heading, label = name.split("|")
        table.setdefault(heading, {})[label] = (values.mean(0), spread)
    images = min(drawing.sizes.activation_images, len(pairs[0].run.dataset.test_labels))
    subject = f"{drawing.run.config.name}, {len(pairs)} pair(s), {images:,} test images"
    panels = [_save(drawing, file, table, headings, layers, subject) for file, headings in PICTURES.items()]
    series = [
        Series(f"{heading}: {label}", metric, *line)
        for heading, lines in table.items()
        for metric in [METRIC[heading]]
        for label, line in lines.items()
    ]
    names = ", ".join(f"{i}: {layer}" for i, layer in enumerate(layers, 1))
    curves = Curves(f"layer ({names})", "similarity", range(1, len(layers) + 1), series)
    return Contents(_caption(pairs, images), panels, curves)


CKA_AB, UNITS_AB = "A and pi(B): linear CKA", "A and pi(B): unit i with unit i"
CKA_A, CKA_B = "merged and A: linear CKA", "merged and B: linear CKA"
UNITS_A, UNITS_B = "merged and A: unit i with unit i", "merged and pi(B): unit i with unit i"
METRIC = {
    heading: "unit_correlation" if "unit i" in heading else "cka"
    for heading in (CKA_AB, UNITS_AB, CKA_A, CKA_B, UNITS_A, UNITS_B)
}
PICTURES = {
    "alignment.png": (CKA_AB, UNITS_AB),
    "merged_cka.png": (CKA_A, CKA_B),
    "merged_units.png": (UNITS_A, UNITS_B),
}


def _measure(drawing: Drawing, pair: Pair) -> dict[str, np.ndarray]:
    """`HEADING|label` -> `[layers]` of one pair."""
    networks = [pair.params_a, pair.params_b]
    compared = {f"{heading}|{BEFORE}": (0, 1) for heading in (CKA_AB, UNITS_AB)}

    def add(params: Params) -> int:
        networks.append(params)
        return len(networks) - 1

    rows = [drawing.row(row) for row in drawing.figure.rows]
    for row in rows:
        merged = drawing.merge(pair, row)
        merge = result_of(merged)
        hard = add(af.apply_perm(pair.spec, pair.params_b, merge.perms))
        if row.method != "interpolation":  # CKA is as it was before
            compared[f"{UNITS_AB}|{titled(row, 'hard' if merge.soft_perms else '')}"] = 0, hard
        if merge.soft_perms:
            soft = add(permute(pair.spec, pair.params_b, merge.soft_perms))
            compared |= {f"{heading}|{titled(row, 'soft')}": (0, soft) for heading in (CKA_AB, UNITS_AB)}
        for network in merged:
            number = add(network.params)
            against = {CKA_A: 0, CKA_B: 1, UNITS_A: 0, UNITS_B: hard}
            compared |= {
                f"{h}|{titled(row, network.variant)}": (number, other) for h, other in against.items()
            }
    return _compare(drawing, pair, networks, compared, [row_key(row, pair) for row in rows])


def _compare(
    drawing: Drawing,
    pair: Pair,
    networks: list[Params],
    compared: dict[str, tuple[int, int]],
    merges: list[dict[str, Any]],
) -> dict[str, np.ndarray]:
    """What each heading asks for of two networks, `[layers]`, by the names of `compared`."""
    sites, labels = output_sites(pair.spec), pair.run.dataset.test_labels
    chosen = evenly(len(labels), drawing.sizes.activation_images)

    def make() -> dict[str, np.ndarray]:
        x = pair.run.test_x[chosen]
        batches = (x[start : start + BATCH] for start in range(0, len(x), BATCH))
        pairs = list(compared.values())
        found = network_similarity(pair.spec, networks, batches, pairs=pairs, sites=tuple(sites.values()))
        by_layer = [found[site.name] for site in sites.values()]
        return {
            name: np.array(
                [getattr(similarities[k], METRIC[name.split("|")[0]]) for similarities in by_layer]
            )
            for k, name in enumerate(compared)
        }

    identity = {"merges": merges, "compared": list(compared), "images": len(chosen)}
    return store_of(pair.run).arrays("similarity", identity, make)


def _save(
    drawing: Drawing,
    file: str,
    table: Panels,
    headings: tuple[str, ...],
    layers: list[str],
    subject: str,
) -> FigurePanel:
    panels = {heading: table[heading] for heading in headings}
    picture = layers_figure(panels, layers, title=subject, ylabel="CKA, or mean correlation")
    told = " ".join(
        f"{heading}: " + "; ".join(
            f"{label} " + ", ".join(f"{value:.2f}" for value in mean) for label, (mean, _) in lines.items()
        ) + "."
        for heading, lines in panels.items()
    )  # fmt: skip
    return drawing.save(picture, FigurePanel(file, f"Line chart over layers {', '.join(layers)}. {told}"))


def _caption(pairs: list[Pair], images: int) -> str:
    spread = f"mean and standard deviation over {len(pairs)} pairs" if len(pairs) > 1 else "one pair"
    return (
        f"Similarity of the activations that the next layer reads, on {images:,} test images of both "
        f"tasks; in feature maps every place is a sample; {spread}. Linear CKA (Kornblith et al., 2019) "
        "compares the spaces that the units span: hard permutations do not change it, so there is one "
        "line for all of them; soft matrices mix units and do change it. What an alignment changes is "
        "which units stand opposite each other: the mean correlation of unit i of one network with unit i "
        "of the other, over the units that vary in both. Merged networks are compared with A and with the "
        "permuted B."
    )


FIGURE = Figure(
    "cka", "Similarity of the networks by layer", (mnist_vgg.get_config,), ROWS,
    draw,
)  # fmt: skip
