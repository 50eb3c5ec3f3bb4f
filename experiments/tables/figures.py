"""Figures of the networks that a panel merged: between their parents, and the loss around them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import autofusion_jax as af
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.evaluation.landscape import loss_landscape, merge_parents
from autofusion_jax.evaluation.results import Result
from autofusion_jax.merging.corrections.reset_norm import reset_norm
from autofusion_jax.plots.canvas import save_figure
from autofusion_jax.types import Params
from pipeline.endpoints import Pair, Run
from pipeline.engine import load_networks, run_row
from pipeline.run_folder import evenly
from reporting.figures import interpolation_figure
from reporting.landscape_figure import Marked, landscape_figure
from tables.schema import CURVE_FIGURE, LANDSCAPE_FIGURE, Panel, TableConfig

WITHIN_TITLES = {
    "avg_within": "Mean of both, each within its task",
    "task_a_within": "Task A, within its classes",
    "task_b_within": "Task B, within its classes",
}
RESET_IMAGES = 500
"""Calibration images that BatchNorm statistics are measured on at every point of a figure."""


class Family(NamedTuple):
    """A merged network and the networks that it is the mean of."""

    title: str
    merged: Params
    parents: list[Params]


def draw_figures(
    folder: Path, panel: Panel, config: TableConfig, run: Run, records: Sequence[Result]
) -> None:
    """Draw the figures that are not there yet and whose rows are, of the first pair."""
    found = {record.method: record.found for record in records if record.pair == 0}
    figures = {
        folder / CURVE_FIGURE: (panel.curves, _draw_curves),
        folder / LANDSCAPE_FIGURE: (panel.landscape, _draw_landscape),
    }
    wanted = {
        path: (names, draw)
        for path, (names, draw) in figures.items()
        if names and not path.is_file() and all(name in found for name in names)
    }
    if not wanted:
        return
    pair = run.pair(0)
    families = {}
    for entry in panel.rows:
        if any(entry.name in names for names, _ in wanted.values()):
            plain = dataclasses.replace(
                entry, options={**entry.options, **found[entry.name]}, search={}, correction=None
            )
            network = load_networks(run_row(plain, pair), pair)[0]
            assert network.result is not None, entry.name
            parents = merge_parents(pair.spec, pair.models, network.result)
            families[entry.name] = Family(entry.title, network.params, parents)
    for path, (names, draw) in wanted.items():
        draw(path, panel, config, pair, [families[name] for name in names])


def _prepare(panel: Panel, pair: Pair) -> Callable[[Params], Params] | None:
    """What follows every network of a figure: BatchNorm statistics measured again, as in the table."""
    if all(row.correction != "reset_norm" for row in panel.rows):
        return None
    x = pair.x[evenly(len(pair.x), RESET_IMAGES)]
    return lambda params: reset_norm(pair.spec, params, x)[0]


def _draw_curves(
    path: Path, panel: Panel, config: TableConfig, pair: Pair, families: Sequence[Family]
) -> None:
    """Accuracy along the line between the two parents of each merge."""
    chosen = evenly(pair.split.test_labels.shape[-1], config.evaluate.curve_images)
    gammas = np.linspace(0, 1, config.evaluate.curve_points)
    prepare, spec, split = _prepare(panel, pair), pair.spec, pair.split
    curves = {
        family.title: interpolation_curve(
            pair.run.model.apply, spec, family.parents[0], family.parents[1], af.identity_perms(spec),
            jnp.asarray(gammas), pair.run.test_x[chosen], split.test_labels[..., chosen], split.tasks,
            prepare=prepare,
        )
        for family in families
    }  # fmt: skip
    where = f"{config.name}, seed {split.seed}"
    title = f"{where}: between the parents of each merge, {len(chosen):,} test images"
    title += ", BatchNorm reset at every point" if prepare else ""
    figure = interpolation_figure(curves, gammas, title=title, metrics=WITHIN_TITLES)
    save_figure(figure, path)


def _draw_landscape(
    path: Path, panel: Panel, config: TableConfig, pair: Pair, families: Sequence[Family]
) -> None:
    """The loss over the plane through all merges and their parents, brought into one order first."""
    families = [families[0], *(_aligned(family, families[0], pair) for family in families[1:])]
    networks, marks = [], []
    for family in families:
        start = len(networks)
        networks += [family.merged, *family.parents]
        marks.append(Marked(family.title, start, tuple(range(start + 1, len(networks)))))
    chosen = evenly(pair.split.test_labels.shape[-1], config.landscape_images)
    split, run = pair.split, pair.run
    landscape = loss_landscape(
        run.model.apply, networks, run.test_x[chosen], split.test_labels[..., chosen], split.tasks,
        points=config.landscape_points, prepare=_prepare(panel, pair),
    )  # fmt: skip
    title = f"{config.name}, seed {split.seed}: loss on {len(chosen):,} test images"
    save_figure(landscape_figure(landscape, marks, title=title), path)


def _aligned(family: Family, other: Family, pair: Pair) -> Family:
    """The same networks with their units in the order of another family's."""
    matched = af.merge(other.merged, family.merged, pair.spec, pair.x, method="activation_matching")
    merged, *parents = (
        af.apply_perm(pair.spec, params, matched.perms) for params in (family.merged, *family.parents)
    )
    return Family(family.title, merged, parents)
