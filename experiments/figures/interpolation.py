"""Fig. 3 and 4: accuracy between A and pi(B), the permutations learned from true labels (paper, B.5)."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from autofusion_jax.evaluation.accuracy import METRICS, evaluate
from autofusion_jax.evaluation.interpolation import interpolation_curve
from configs import mnist_vgg
from figures.schema import (
    PAPER,
    Contents,
    Curves,
    Drawing,
    Figure,
    FigurePanel,
    Series,
    merge_row,
    result_of,
)
from pipeline.endpoints import LABELLED_SEED, Pair
from pipeline.engine import row_key, store_of
from pipeline.run_folder import evenly
from reporting.figures import METRIC_TITLES, interpolation_figure

STRATEGIES = ("weighted", "rounded", "normalized", "align", "retain")
OURS = merge_row("autofusion", "our default")
ROWS = (
    OURS,
    merge_row("weight_matching", "Git Re-Basin"),
    *(merge_row(PAPER, f"AutoFusion, {name}", strategy=name) for name in STRATEGIES),
    merge_row("interpolation", "plain interpolation"),
)
FIRST_LOOK = tuple(e for e in ROWS if e.options.get("strategy", "normalized") == "normalized")

LABELLED = 1000
"""Images with true labels that the permutations are learned from (B.5)."""

Curve = Mapping[str, np.ndarray]


def draw(drawing: Drawing, metrics: tuple[str, ...]) -> Contents:
    """Draw the curves twice: with soft matrices, as in Eq. 15, and with hard permutations."""
    pair = drawing.run.pair(0)
    gammas = np.linspace(0, 1, drawing.sizes.gammas, dtype=np.float32)
    panels, series = [], []
    for variant, sort in (("soft", "soft matrices"), ("hard", "hard permutations")):
        curves, point = _curves(drawing, pair, variant, gammas)
        headings = {metric: METRIC_TITLES[metric] for metric in metrics}
        title = f"{drawing.run.config.name}, seed {pair.split.seed}: from B (gamma 0) to A (gamma 1), {sort}"
        picture = interpolation_figure(curves, gammas, title=title, metrics=headings, points=point)
        panels.append(
            drawing.save(picture, FigurePanel(f"{variant}.png", _alt(curves, gammas, headings), method=sort))
        )
        for name, curve in curves.items():
            label = f"{name}, {variant}" if name.startswith(("AutoFusion", OURS.title)) else name
            if variant == "soft" or label != name:
                series += [Series(label, metric, curve[metric]) for metric in metrics]
    curves_json = Curves("gamma (weight of model A)", "accuracy (%)", gammas.tolist(), series)
    return Contents(_caption(drawing, pair), panels, curves_json)


def _curves(
    drawing: Drawing, pair: Pair, variant: str, gammas: np.ndarray
) -> tuple[dict[str, Curve], dict[str, tuple[float, Mapping[str, float]]]]:
    """Label -> metric -> `[gammas]`, and the network that our default gives, which lies on no curve."""
    dataset = pair.run.dataset
    chosen = evenly(len(dataset.test_labels), drawing.sizes.test_images)
    x, labels = pair.run.test_x[chosen], dataset.test_labels[chosen]
    curves, point = {}, {}
    for row in drawing.figure.rows:
        asked = drawing.row(row, labelled=LABELLED)
        networks = drawing.merge(pair, asked)
        merge = result_of(networks)
        soft = variant == "soft" and bool(merge.soft_perms)
        perms = merge.soft_perms if soft else merge.perms
        identity = {"merge": row_key(asked, pair), "soft": soft, "gammas": len(gammas), "images": len(chosen)}
        measure = functools.partial(
            interpolation_curve, pair.run.model.apply, pair.spec, pair.params_a, pair.params_b, perms,
            jnp.asarray(gammas), x, labels, pair.split.tasks,
        )  # fmt: skip
        curves[row.title] = store_of(pair.run).arrays("curve", identity, measure)
        if row == OURS:
            ours = next((network for network in networks if network.variant == variant), networks[0])
            metrics = evaluate(pair.run.model.apply, ours.params, x, labels, pair.split.tasks)
            point["the network that our default gives"] = (0.5, metrics)
    return curves, point


def _alt(curves: Mapping[str, Curve], gammas: np.ndarray, headings: Mapping[str, str]) -> str:
    middle = int(np.abs(gammas - 0.5).argmin())
    parts = []
    for metric, heading in headings.items():
        values = ", ".join(f"{name} {curve[metric][middle]:.0f}" for name, curve in curves.items())
        best = {name: (curve[metric].max(), gammas[curve[metric].argmax()]) for name, curve in curves.items()}
        tops = ", ".join(f"{name} {top:.0f} at {gamma:.2f}" for name, (top, gamma) in best.items())
        parts.append(f"{heading}: at gamma {gammas[middle]:.2f} (%): {values}; largest (%): {tops}.")
    return f"Line chart of accuracy against gamma, {len(curves)} lines. " + " ".join(parts)


def _caption(drawing: Drawing, pair: Pair) -> str:
    ways = ", ".join(e.options["strategy"] for e in drawing.figure.rows if "strategy" in e.options)
    sizes, tasks = drawing.sizes, [", ".join(map(str, task)) for task in pair.split.tasks]
    images = min(sizes.test_images, len(pair.run.dataset.test_labels))
    return (
        f"Accuracy of gamma A + (1 - gamma) pi(B) on {images:,} test images, evenly "
        f"spaced, {sizes.gammas} values of gamma; task A: classes {tasks[0]}, task B: {tasks[1]}; "
        f"always the argmax over all classes. The permutations were learned from {LABELLED:,} training "
        f"images with true labels, drawn by seed {LABELLED_SEED} (B.5). AutoFusion: the paper's settings, "
        f"gamma ~ U(0, 1) and {sizes.paper_epochs} epochs, its two losses combined in the ways named "
        f"({ways}; weights 0.5 and 0.5). Soft matrices are not permutations: at gamma 0 they give a blurred "
        "B. The star is the network that our default gives, which may mix with weights of its own that no "
        "single gamma has; its curve uses its permutations alone. The paper gives no numbers beside its "
        "curves."
    )


FIGURE_3 = Figure(
    "3", "Interpolation on each task (paper, Fig. 3)", (mnist_vgg.get_config,), ROWS,
    functools.partial(draw, metrics=METRICS[1:3]), FIRST_LOOK,
)  # fmt: skip
FIGURE_4 = Figure(
    "4", "Interpolation on both tasks together (paper, Fig. 4)", (mnist_vgg.get_config,), ROWS,
    functools.partial(draw, metrics=METRICS[:1]), FIRST_LOOK,
)  # fmt: skip
