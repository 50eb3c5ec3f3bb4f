"""merge.py and train.py on digits, killed at random moments and run again: the same results, nothing else."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from autofusion_jax.checkpoints.orbax_io import load
from autofusion_jax.evaluation.results import read_results
from autofusion_jax.trees import flatten_by_path
from tests.kills import survive

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICK = ["--config=digits_mlp", "--config.train.epochs=3", "--config.train.segment=20", "--config.pairs=1"]
MERGE = [
    *QUICK, "--config.out_dir=out", "--config.merge.epochs=1", "--config.evaluate.curve_points=3",
    "--config.merge.methods=interpolation,weight_matching,autofusion",
    "--config.merge.references=model_a,model_b",
]  # fmt: skip
KILLS = 10


def numbers(folder):
    """All that a run of merge.py says, but seconds."""
    results = [
        (r.method, r.variant, r.pair, r.repeat, r.metrics) for r in read_results(folder / "out/results.jsonl")
    ]
    networks = [load(folder / "out" / r.path) for r in read_results(folder / "out/results.jsonl") if r.path]
    return results, [leaves(network.params) for network in networks]


def networks(folder):
    """The parameters of all networks that train.py left."""
    return {
        path.parent.name: leaves(load(path).params) for path in folder.glob("runs/checkpoints/*/*/*/final")
    }


def leaves(params):
    return {name: np.asarray(leaf).tobytes() for name, leaf in flatten_by_path(params).items()}


@pytest.mark.parametrize(
    ("script", "arguments", "check"), [("merge.py", MERGE, numbers), ("train.py", QUICK, networks)]
)
def test_killed_at_random_moments(tmp_path, script, arguments, check):
    numbered = itertools.count()

    def make_folder():
        folder = tmp_path / f"run{next(numbered)}"
        folder.mkdir()
        return folder

    tally = survive(EXPERIMENTS / script, arguments, make_folder, check, kills=KILLS, seed=0)
    print(f"{script}: {tally}")
    assert not tally.unequal and not tally.leftovers, tally
