"""Fig. 3 and 4: accuracy between A and pi(B), the permutations learned from true labels (paper, B.5)."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from autofusion_jax.evaluation.accuracy import METRICS, evaluate
from autofusion_jax.evaluation.interpolation import interpolation_curve
from configs import mnist_vgg
from figures.schema import Curves, Drawn, Entry, Figure, Panel, Series
from figures.work import LABELLED, LABELLED_SEED, PAPER, Case, Merged, Work, merge_case, remember
from pipeline.outputs import evenly
from reporting.figures import METRIC_TITLES, interpolation_figure

STRATEGIES = ("weighted", "rounded", "normalized", "align", "retain")
OURS = Entry("autofusion", "our default")
ENTRIES = (
    OURS,
    Entry("weight_matching", "Git Re-Basin"),
    *(Entry(PAPER, f"AutoFusion, {name}", {"strategy": name}) for name in STRATEGIES),
    Entry("interpolation", "plain interpolation"),
)
FIRST_LOOK = tuple(e for e in ENTRIES if e.options.get("strategy", "normalized") == "normalized")

Curve = Mapping[str, np.ndarray]


def draw(work: Work, metrics: tuple[str, ...]) -> Drawn:
    """Draw the curves twice: with soft matrices, as in Eq. 15, and with hard permutations."""
    case = work.case(work.configs[0].name)
    gammas = np.linspace(0, 1, work.sizes.gammas, dtype=np.float32)
    panels, series = [], []
    for variant, sort in (("soft", "soft matrices"), ("hard", "hard permutations")):
        curves, point = _curves(work, case, variant, gammas)
        headings = {metric: METRIC_TITLES[metric] for metric in metrics}
        title = f"{work.configs[0].name}, seed {case.pair.seed}: from B (gamma 0) to A (gamma 1), {sort}"
        picture = interpolation_figure(curves, gammas, title=title, metrics=headings, points=point)
        panels.append(
            work.save(picture, Panel(f"{variant}.png", _alt(curves, gammas, headings), method=sort))
        )
        for name, curve in curves.items():
            label = f"{name}, {variant}" if name.startswith(("AutoFusion", OURS.title)) else name
            if variant == "soft" or label != name:
                series += [Series(label, metric, curve[metric]) for metric in metrics]
    curves_json = Curves("gamma (weight of model A)", "accuracy (%)", gammas.tolist(), series)
    return Drawn(_caption(work, case), panels, curves_json)


def _curves(
    work: Work, case: Case, variant: str, gammas: np.ndarray
) -> tuple[dict[str, Curve], dict[str, tuple[float, Mapping[str, float]]]]:
    """Label -> metric -> `[gammas]`, and the network that our default gives, which lies on no curve."""
    dataset = case.setting.dataset
    chosen = evenly(len(dataset.test_labels), work.sizes.test_images)
    x, labels = case.setting.test_x[chosen], dataset.test_labels[chosen]
    curves, point = {}, {}
    for entry in work.figure.entries:
        merged = merge_case(case, entry, work.console, labelled=True)
        soft = variant == "soft" and bool(merged.soft_perms)
        perms = merged.soft_perms if soft else merged.perms
        settings = {"merge": merged.key, "soft": soft, "gammas": len(gammas), "images": len(chosen)}
        measure = functools.partial(
            interpolation_curve, case.setting.model.apply, case.spec, case.params_a, case.params_b, perms,
            jnp.asarray(gammas), x, labels, case.pair.tasks,
        )  # fmt: skip
        _, curves[entry.title] = remember(case.kept, "curve", settings, measure)
        if entry == OURS:
            params = _variant(merged, variant)
            metrics = evaluate(case.setting.model.apply, params, x, labels, case.pair.tasks)
            point["the network that our default gives"] = (0.5, metrics)
    return curves, point


def _variant(merged: Merged, variant: str):
    return merged.variants.get(variant, next(iter(merged.variants.values())))


def _alt(curves: Mapping[str, Curve], gammas: np.ndarray, headings: Mapping[str, str]) -> str:
    middle = int(np.abs(gammas - 0.5).argmin())
    parts = []
    for metric, heading in headings.items():
        values = ", ".join(f"{name} {curve[metric][middle]:.0f}" for name, curve in curves.items())
        best = {name: (curve[metric].max(), gammas[curve[metric].argmax()]) for name, curve in curves.items()}
        tops = ", ".join(f"{name} {top:.0f} at {gamma:.2f}" for name, (top, gamma) in best.items())
        parts.append(f"{heading}: at gamma {gammas[middle]:.2f} (%): {values}; largest (%): {tops}.")
    return f"Line chart of accuracy against gamma, {len(curves)} lines. " + " ".join(parts)


def _caption(work: Work, case: Case) -> str:
    ways = ", ".join(e.options["strategy"] for e in work.figure.entries if "strategy" in e.options)
    sizes, tasks = work.sizes, [", ".join(map(str, task)) for task in case.pair.tasks]
    images = min(sizes.test_images, len(case.setting.dataset.test_labels))
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
    "3", "Interpolation on each task (paper, Fig. 3)", (mnist_vgg.get_config,), ENTRIES,
    functools.partial(draw, metrics=METRICS[1:3]), FIRST_LOOK,
)  # fmt: skip
FIGURE_4 = Figure(
    "4", "Interpolation on both tasks together (paper, Fig. 4)", (mnist_vgg.get_config,), ENTRIES,
    functools.partial(draw, metrics=METRICS[:1]), FIRST_LOOK,
)  # fmt: skip
