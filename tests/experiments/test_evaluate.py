"""`evaluate.py` rebuilds every network that the experiments store, and says why where it cannot."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from autofusion_jax.checkpoints.orbax_io import load, save
from autofusion_jax.evaluation.results import flat_metrics
from configs import get_config
from configs.models import model_config
from configs.schema import DataConfig
from pipeline.endpoints import open_run
from pipeline.reference_rows import REFERENCE_ROWS
from tables import mudsc_s1
from training.loop import TrainOptions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DIGITS = DataConfig("digits", num_validation=100, num_unlabelled=200)
TRAIN = TrainOptions(epochs=2, batch_size=64, segment=50)


def run(path, *args, status=0):
    script = str(ROOT / "experiments" / "evaluate.py")
    done = subprocess.run(
        [sys.executable, script, f"--checkpoint={path}", *map(str, args)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr


def two_questions(folder):
    """The endpoints of `--table=mudsc_s1`, small."""
    model = model_config("mlp", widths=(16, 16), use_bias=False, head="cosine", embed_dim=8)
    config = mudsc_s1.MudscConfig("mudsc_s1", data=DIGITS, model=model, train=TRAIN, runs_dir=str(folder))
    return mudsc_s1.open_run(config, Console(file=io.StringIO())).pair(0)


def three_tasks(folder):
    """Endpoints of three tasks that share a head."""
    config = get_config("digits_mlp")
    config.data, config.train, config.runs_dir = DIGITS, TRAIN, str(folder)
    config.task.labels, config.task.sizes = "shared", (3, 3, 4)
    run = open_run(config, Console(file=io.StringIO()))
    return run.pair(0)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return two_questions(tmp_path_factory.mktemp("questions"))


def stored(pair, role):
    """Where its network lies. The settings of a network of `mudsc_s1` are not those of the pair."""
    (path,) = Path(pair.run.config.runs_dir).glob(f"checkpoints/*/seed_0/{role}/final")
    return path


def test_the_numbers_are_those_of_the_experiment(questions, tmp_path):
    for pair in (questions, three_tasks(tmp_path)):
        (network,) = REFERENCE_ROWS["model_b"](pair)
        run(stored(pair, "model_b"), f"--out={tmp_path / 'metrics.json'}")
        found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
        assert flat_metrics(found) == pytest.approx(flat_metrics(pair.evaluate(network)))


@pytest.mark.parametrize("args", [["--task_a=0,1"], ["--data=mnist"]])
def test_two_questions_have_no_other_classes(questions, args):
    stderr = run(stored(questions, "model_a"), *args, status=2)
    assert "--data, --task_a and --task_b must be left out" in stderr and stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": [16]}, "build_model: mlp: unknown option 'width'. Did you mean 'widths'"),
        ({"name": "mlpp"}, "build_model: unknown model 'mlpp'. Did you mean 'mlp'"),
        ({"widths": [16, 8]}, "evaluate: checkpoint['params/dense_1/kernel'] axis 1"),
    ],
)
def test_networks_that_cannot_be_rebuilt_are_one_line(questions, tmp_path, changes, message):
    params, _, meta = load(stored(questions, "model_a"))
    meta["model"] |= changes
    stderr = run(save(tmp_path / "changed", params, meta=meta), status=2)
    assert stderr.startswith(f"error: {message}") and stderr.strip().count("\n") == 0
