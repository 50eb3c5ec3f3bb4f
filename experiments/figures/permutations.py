"""Fig. 5 and 7: permutation matrices, and how far they are from the identity (paper, D.2 and D.3)."""

import numpy as np

from autofusion_jax.evaluation.similarity import l1_complexity
from configs import fashion_vgg, kmnist_vgg, mnist_vgg
from figures.schema import (
    PAPER,
    Contents,
    Drawing,
    Figure,
    FigurePanel,
    file_name,
    merge_row,
    result_of,
    titled,
)
from pipeline.endpoints import Pair
from pipeline.rows import Row
from reporting.figures import permutation_figure

REBASIN = merge_row("weight_matching", "Git Re-Basin")
LEARNED = (merge_row(PAPER, "AutoFusion (paper)"), merge_row("autofusion", "AutoFusion (ours)"))
FIRST_LAYERS = 2

Matrices = dict[str, np.ndarray]

L1 = (
    "L1: the distance of the matrix to the identity, sum of |P - I| over its entries: twice the number of "
    "units that a hard permutation moves, at most 2 n, and 2 (n - 1) on average for a random one. The "
    "units of B come in the order of their initialisation, so it says how far B was reordered, not how "
    "well."
)


def draw_methods(drawing: Drawing) -> Contents:
    """Fig. 5: the first two layers, one row a method."""
    pair = drawing.run.pair(0)
    rows: dict[str, Matrices] = {}
    for row in drawing.figure.rows:
        rows |= _matrices(drawing, pair, row)
    complexity = {name: {g: l1_complexity(m) for g, m in by_group.items()} for name, by_group in rows.items()}
    shown = {name: dict(list(by_group.items())[:FIRST_LAYERS]) for name, by_group in rows.items()}
    title = f"{pair.run.config.name}, seed {pair.split.seed}: permutations of B's units"
    by_layer = {group: {name: shown[name][group] for name in shown} for group in next(iter(shown.values()))}
    panels = [_save(drawing, "all.png", by_layer, title)]
    for name, by_group in shown.items():
        for group, matrix in by_group.items():
            file = file_name(name, group)
            panels.append(
                _save(drawing, file, {name: {group: matrix}}, title, layer=group, method=name)
            )  # fmt: skip
    caption = (
        f"Permutation matrices of the first two layers, rows units of A, columns units of B. {L1} The paper "
        f"gives no number for it. AutoFusion in the paper's settings and in ours, learned from "
        f"{len(pair.split.unlabelled):,} unlabelled images; soft: the Sinkhorn matrix, hard: the permutation "
        "nearest to it."
    )
    largest = {group.name: 2 * group.size for group in pair.spec.groups.values()}
    return Contents(caption, panels, numbers={"l1_complexity": complexity, "l1_largest": largest})


def draw_datasets(drawing: Drawing) -> Contents:
    """Fig. 7: all layers, one row a data set, one picture a method."""
    rows: dict[str, dict[str, Matrices]] = {}
    for run in drawing.runs.values():
        pair = run.pair(0)
        for row in drawing.figure.rows:
            for name, by_group in _matrices(drawing, pair, row).items():
                rows.setdefault(name, {})[run.config.data.name] = by_group
    panels = [
        _save(drawing, file_name(name), by_data, f"{name}, seed {drawing.run.config.seed}", method=name)
        for name, by_data in rows.items()
    ]
    complexity = {
        name: {data: {g: l1_complexity(m) for g, m in groups.items()} for data, groups in by_data.items()}
        for name, by_data in rows.items()
    }
    names = ", ".join(run.config.data.name for run in drawing.runs.values())
    caption = (
        f"Permutation matrices that AutoFusion learned on {names}, all convolutions; rows units of A, "
        f"columns units of B. {L1}"
    )
    return Contents(caption, panels, numbers={"l1_complexity": complexity})


def _matrices(drawing: Drawing, pair: Pair, row: Row) -> dict[str, Matrices]:
    """Label -> group -> `[n, n]` of a merge: soft and hard where it has both."""
    merged = result_of(drawing.merge(pair, drawing.row(row)))
    hard = {group: np.eye(perm.shape[-1], dtype=np.float32)[np.asarray(perm)]
            for group, perm in merged.perms.items()}  # fmt: skip
    if not merged.soft_perms:
        return {row.title: {group: hard[group] for group in pair.spec.groups}}
    soft = {group: np.asarray(matrix) for group, matrix in merged.soft_perms.items()}
    return {
        titled(row, variant): {group: matrices[group] for group in pair.spec.groups}
        for variant, matrices in (("soft", soft), ("hard", hard))
    }


def _save(drawing: Drawing, file: str, rows: dict[str, Matrices], title: str, **shows: str) -> FigurePanel:
    complexity = {name: {g: l1_complexity(m) for g, m in groups.items()} for name, groups in rows.items()}
    notes = {
        name: {g: f"L1 {value:.0f} of {2 * len(rows[name][g])}" for g, value in groups.items()}
        for name, groups in complexity.items()
    }
    picture = permutation_figure(rows, title=title, notes=notes)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{group} L1 {text.removeprefix('L1 ')}, {_spread(rows[name][group])}"
                                for group, text in by_group.items())
        for name, by_group in notes.items()
    )  # fmt: skip
    return drawing.save(
        picture, FigurePanel(file, f"Permutation matrices as squares of dots. {told}.", **shows)
    )


def _spread(matrix: np.ndarray) -> str:
    """How sharp a matrix is, in words."""
    if np.isin(matrix, (0, 1)).all():
        return f"{int(np.trace(matrix))} units in their place"
    return f"the largest entry of a row is {matrix.max(1).mean():.2f} on average"


FIGURE_5 = Figure(
    "5", "Permutation matrices of Git Re-Basin and AutoFusion (paper, Fig. 5)", (mnist_vgg.get_config,),
    (REBASIN, *LEARNED), draw_methods,
)  # fmt: skip
FIGURE_7 = Figure(
    "7", "Permutation matrices on three data sets (paper, Fig. 7)",
    (mnist_vgg.get_config, kmnist_vgg.get_config, fashion_vgg.get_config), LEARNED, draw_datasets,
)  # fmt: skip
