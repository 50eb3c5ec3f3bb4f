"""Tables of papers: running their rows, going on, refusing other settings; all tables at a tiny size."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from autofusion_jax.evaluation.accuracy import ALL_METRICS
from autofusion_jax.merging.registry import get_method
from autofusion_jax.models.layers import class_vectors
from autofusion_jax.models.registry import build_model
from autofusion_jax.reporting.records import read_records, summarise
from autofusion_jax.training.loop import TrainOptions
from configs.schema import DataConfig, EvaluateConfig, MLPConfig, identity
from tables import TABLES
from tables.cases import open_class_halves
from tables.mudsc_s1 import TASKS, ClipModel, class_labels
from tables.report import table_text, write_report
from tables.runner import run_rows
from tables.schema import REFERENCES, Entry, Table, TableConfig, override

ROOT = Path(__file__).parents[2]

TINY = Table(
    name="tiny",
    title="Tiny",
    metrics=("joint", "avg_within"),
    entries=(
        Entry("model_a", "Model A"),
        Entry("model_b", "Model B"),
        Entry("ensemble", "Ensemble"),
        Entry("average", "Average", "interpolation", published={"joint": 50.0}),
        Entry("best", "Best average", "interpolation", search={"gamma": (0.5, 1.0)}),
        Entry("rebasin", "Git Re-Basin", "weight_matching"),
        Entry("ours", "AutoFusion", "autofusion", {"epochs": 1, "zeta": 0.0}),
    ),
    get_config=lambda: TableConfig(
        name="tiny",
        data=DataConfig("digits", num_validation=100, num_unlabelled=200),
        model=MLPConfig(widths=(16, 16)),
        train=TrainOptions(epochs=2, batch_size=64, segment=50),
        evaluate=EvaluateConfig(curve_points=3, curve_images=100),
        landscape_points=3,
        landscape_images=50,
    ),
    open_source=open_class_halves,
    caption=lambda config, rows: [f"{len(rows)} rows"],
    curves=("average", "rebasin"),
    landscape=("average", "rebasin", "best"),
)


def quiet():
    return Console(file=io.StringIO(), width=120, record=True)


def reproduce(tmp_path, **changes):
    config, console = TINY.get_config(), quiet()
    config.runs_dir, config.out_dir = str(tmp_path / "runs"), str(tmp_path / "out")
    for assignment, value in changes.items():
        override(config, f"{assignment}={value}")
    source = TINY.open_source(config, console)
    names = [entry.name for entry in TINY.entries]
    folder, records = run_rows(TINY, config, source, console, names)
    return folder, records, config, source, console.export_text()


@pytest.mark.slow
def test_rows_are_run_once(tmp_path):
    folder, records, config, source, printed = reproduce(tmp_path)
    assert [r.method for r in records] == [*(e.name for e in TINY.entries), "ours"]  # soft and hard
    assert [r.variant for r in records[-2:]] == ["soft", "hard"] and printed.count("within tasks") == 8
    by_name = {record.method: record for record in records}
    assert all(set(record.metrics) == set(ALL_METRICS) for record in records)
    ensemble = by_name["ensemble"].metrics
    assert ensemble["task_a_within"] == by_name["model_a"].metrics["task_a_within"]
    assert ensemble["task_b_within"] == by_name["model_b"].metrics["task_b_within"]
    assert by_name["best"].found in ({"gamma": 0.5}, {"gamma": 1.0})
    assert by_name["average"].found == {}

    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("\n".join(lines[:4]) + "\n")  # as if killed after the fourth row
    again = reproduce(tmp_path, pairs=2)
    assert again[4].count("within tasks") == 4 + 8
    assert [r.metrics for r in again[1] if r.pair == 0] == [r.metrics for r in records]

    with pytest.raises(ValueError, match="out_dir must be new or hold results of these settings"):
        reproduce(tmp_path, seed=7)

    console = quiet()
    write_report(folder, TINY, config, source, records, console)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "results.jsonl", "results.md", "results.csv", "interpolation.png", "landscape.png",
    }  # fmt: skip
    text = (folder / "results.md").read_text()
    assert text == table_text(TINY, config, records) and "Found by search" in text and "*50.00*" in text
    assert "results in" in console.export_text()
    assert json.loads((folder / "config.json").read_text())["rows"]["ours"]["options"] == {
        "epochs": 1,
        "zeta": 0.0,
    }


def test_prime_and_odd():
    assert class_labels(np.arange(10)).tolist() == [[0, 0, 1, 1, 0, 1, 0, 1, 0, 0], [2, 3] * 5]


def test_alike_class_vectors_by_hand():
    """Class vectors with a common part, written out: the same logits but for one number for each input."""
    plain = build_model(
        "mlp", (4, 4), num_classes=4, widths=(8,), use_bias=False, head="cosine", embed_dim=16
    )
    params, x = plain.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 4, 4))
    weights = params["params"]["head"]["projection"]["kernel"]
    embedding = np.asarray(plain.module.apply(params, x, method="features") @ weights, np.float64)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    own = class_vectors(4, 16)  # [16, 4]
    common = np.linalg.svd(own)[0][:, -1:]  # orthogonal to all of them
    logits = 100 * embedding @ (np.sqrt(0.9) * common + np.sqrt(0.1) * own)
    for task in TASKS:
        model = ClipModel(plain.module, plain.input_shape, 0.1**0.5, task)
        difference = np.asarray(model.apply(params, x)) - logits[:, list(task)]
        np.testing.assert_allclose(difference, np.repeat(difference[:, :1], 2, axis=1), atol=1e-3)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_sound(name):
    table = TABLES[name]
    assert table.name == name and set(table.metrics) <= set(ALL_METRICS)
    names = [entry.name for entry in table.entries]
    assert len(set(names)) == len(names) and {*table.curves, *table.landscape} <= set(names)
    for entry in table.entries:
        assert set(entry.published) <= set(table.metrics)
        if entry.method is None:
            assert entry.name in REFERENCES
        else:
            get_method(entry.method, **entry.options)
    table.get_config().train.check()


def test_overrides_are_typed():
    config = TINY.get_config()
    for assignment in ("train.epochs=7", "model.widths=(8, 8)", "data.name=mnist", "train.learning_rate=1"):
        override(config, assignment)
    assert (config.train.epochs, config.model.widths, config.data.name) == (7, (8, 8), "mnist")
    assert config.train.learning_rate == 1.0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=1", "unknown field 'epoch'. Did you mean 'epochs'"),
        ("epochs=1", "unknown field 'epochs'"),
        ("train.epochs.deep=1", "unknown field 'deep'"),
        ("train.epochs=x", "train.epochs must be int, such as 2; got 'x'"),
        ("train.epochs=1.5", "train.epochs must be int"),
        ("model.widths=8", "model.widths must be tuple"),
    ],
)
def test_bad_overrides(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(TINY.get_config(), assignment)


STORED = sorted((ROOT / "docs" / "results").glob("*/results.md"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_stored_tables_come_from_their_records(path):
    """Text and numbers, in the settings that the table has today."""
    table, stored = TABLES[path.parent.name], json.loads((path.parent / "config.json").read_text())["config"]
    config = table.get_config()
    override(config, f"pairs={stored['pairs']}")
    stored.pop("data_sha256")
    assert json.loads(json.dumps(identity(config))) == stored
    records = read_records(path.parent / "results.jsonl")
    assert path.read_text().startswith(table_text(table, config, records))
    assert {row.num_pairs for row in summarise(records)} == {stored["pairs"]}


QUICK = {
    "mudsc_s1": (
        ("model.widths=(16, 16, 16)",),
        [entry.name for entry in TABLES["mudsc_s1"].entries],
    ),
    "cifar5_resnet20": (
        ("model.widths=(4, 8, 8)", "model.depths=(1, 1, 1)", "train.augment=False"),
        ["model_a", "model_b", "ensemble", "average", "zipit", "zipit_13"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_command_at_a_tiny_size(name, tmp_path):
    settings = (
        "data.name=digits", "data.num_validation=100", "data.num_unlabelled=100", "train.epochs=2",
        "evaluate.curve_points=3", "evaluate.curve_images=50", "landscape_points=3", "landscape_images=50",
        *QUICK[name][0],
    )  # fmt: skip
    rows = QUICK[name][1]
    args = [f"--table={name}", "--pairs=1", "--out_dir=out", f"--rows={','.join(rows)}"]
    args += [f"--set={setting}" for setting in settings]
    command = [sys.executable, str(ROOT / "experiments" / "reproduce.py"), *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results in out" in done.stdout
    records = read_records(tmp_path / "out" / "results.jsonl")
    assert [record.method for record in records] == rows
    if len(rows) == len(TABLES[name].entries):
        assert (tmp_path / "out" / "interpolation.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--table"),
        (["--table=mudsc"], "--table"),
        (["--table=mudsc_s1", "--pairs=0"], "--pairs must be >= 1; got 0"),
        (["--table=mudsc_s1", "--rows=zipt"], "unknown row 'zipt'. Did you mean 'zipit'"),
        (["--table=mudsc_s1", "--set=sede=1"], "unknown field 'sede'. Did you mean 'seed'"),
    ],
)
@pytest.mark.slow
def test_errors_are_one_line(args, message, tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "reproduce.py"), *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
