"""AutoFusion, Table 3: networks of three data sets, in pairs and all together; MNIST, Fashion-MNIST, KMNIST.

Command: `python experiments/reproduce.py --table=3 --data_dir=DIR`
"""

import functools

from pipeline.reference_rows import ENSEMBLE
from pipeline.rows import Row
from tables.autofusion import PAPER, panel, settings
from tables.schema import Table

DATASETS = ("mnist", "fashion_mnist", "kmnist")
COLUMNS = ("joint", *DATASETS, "avg")
FUSED = {
    "mnist_fashion": ("MNIST + Fashion", (0, 1)),
    "mnist_kmnist": ("MNIST + KMNIST", (0, 2)),
    "kmnist_fashion": ("KMNIST + Fashion", (2, 1)),
    "all": ("all three", ()),
}
PUBLISHED = {
    "model_a": (95.58, 9.81, 9.70, 38.36),
    "model_b": (13.25, 96.78, 8.82, 39.61),
    "model_c": (3.40, 18.84, 99.27, 40.50),
    "interpolation_mnist_fashion": (11.66, 59.43, 9.48, 26.85),
    "interpolation_mnist_kmnist": (9.65, 15.09, 60.27, 28.34),
    "interpolation_kmnist_fashion": (9.04, 12.09, 14.04, 11.72),
    "interpolation_all": (9.40, 10.05, 9.66, 9.70),
    "autofusion_paper_mnist_fashion": (66.40, 86.20, 8.32, 53.64),
    "autofusion_paper_mnist_kmnist": (72.19, 17.85, 93.44, 61.16),
    "autofusion_paper_kmnist_fashion": (6.71, 80.58, 88.83, 58.70),
    "autofusion_paper_all": (86.99, 73.84, 67.09, 75.97),
}


def _entry(name: str, title: str, method: str | None = None, members: tuple[int, ...] = ()) -> Row:
    known: dict[str, float] = dict(zip(COLUMNS[1:], PUBLISHED.get(name, ())))
    return Row(name, title, method, published=known, members=members)


def _fusions(method: str, title: str) -> list[Row]:
    """One method on every pair, and on all three, one after another."""
    return [
        _entry(f"{method}_{name}", f"{title}: {fused}", method, members)
        for name, (fused, members) in FUSED.items()
    ]


ROWS = (
    _entry("model_a", "MNIST alone"),
    _entry("model_b", "Fashion alone"),
    _entry("model_c", "KMNIST alone"),
    *_fusions("interpolation", "Weight interpolation"),
    *_fusions("autofusion_paper", "AutoFusion (paper)"),
    *_fusions("autofusion", "AutoFusion"),
    _entry("c2m3", "C2M3: all three at once", "c2m3"),
    _entry("zipit", "ZipIt: all three at once", "zipit"),
    _entry("prune_concat", "prune_concat: all three at once", "prune_concat"),
    _entry("prune_concat_distill", "prune_concat_distill: all three at once", "prune_concat_distill"),
    _entry("teacher_confidence", "Confidence ensemble: all three (teacher)"),
    _entry(ENSEMBLE, "All three, each for its own data set"),
    _entry("control_ridge_head", "MNIST's body, ridge head on pseudo-labels (control)"),
    _entry("real_labels_training", "Trained on all real labels (reference)"),
)
"""Fashion comes before KMNIST in the sequence of all three, as in appendix B.4."""

TABLE = Table(
    name="3",
    title="AutoFusion, Table 3: networks of different data sets (VGG)",
    panels=(
        panel(
            "", "", ROWS,
            functools.partial(
                settings, "mnist_vgg", "3", repeats=1, labels="shared", data__name="+".join(DATASETS),
                data__num_validation=3000, data__num_unlabelled=12_500, merge__epochs=3,
            ),
            f"Published: {PAPER}, Table 3; it does not name the network. There merges see a tenth of each "
            "training set. Here each sees those of the images that are of the data sets it joins. All "
            "three are joined one after another, MNIST and Fashion-MNIST first (appendix B.4), but where the "
            "row says at once; every step sees the images of all three.",
            metrics=COLUMNS,
            fast=(
                "model_a", "model_b", "model_c", "interpolation_all", "autofusion_paper_mnist_kmnist",
                "teacher_confidence",
            ),
        ),
    ),
)  # fmt: skip
