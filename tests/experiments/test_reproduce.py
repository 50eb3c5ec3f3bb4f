"""Tables of papers: running their rows, going on, refusing other settings; all tables at a tiny size."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from autofusion_jax.evaluation.accuracy import ALL_METRICS
from autofusion_jax.evaluation.results import summarise
from configs.models import model_config
from configs.schema import DataConfig, EvaluateConfig, MergeConfig
from pipeline.endpoints import open_run
from pipeline.rows import Row
from tables.report import panel_text, total_seconds, write_panel, write_table
from tables.runner import run_rows
from tables.schema import Panel, Point, Sweep, Table, TableConfig
from tables.settings import override
from tables.stored import StoredPanel
from training.loop import TrainOptions

ROOT = Path(__file__).parents[2]


def tiny_config():
    return TableConfig(
        name="tiny",
        data=DataConfig("digits", num_validation=100, num_unlabelled=200),
        model=model_config("mlp", widths=(16, 16)),
        train=TrainOptions(epochs=2, batch_size=64, segment=50),
        merge=MergeConfig(repeats=2, epochs=1),
        evaluate=EvaluateConfig(curve_points=3, curve_images=100),
        landscape_points=3,
        landscape_images=50,
    )


PANEL = Panel(
    name="",
    title="",
    metrics=("joint", "avg_within"),
    rows=(
        Row("model_a", "Model A"),
        Row("model_b", "Model B"),
        Row("ensemble", "Ensemble"),
        Row("teacher_confidence", "Teacher"),
        Row("average", "Average", "interpolation", published={"joint": 50.0}),
        Row("best", "Best average", "interpolation", search={"gamma": (0.5, 1.0)}),
        Row("rebasin", "Git Re-Basin", "weight_matching"),
        Row("labels", "Real labels", "autofusion", {"zeta": 0.0}, real_labels=0.5),
        Row("ours", "AutoFusion", "autofusion", {"zeta": 0.0}),
    ),
    get_config=tiny_config,
    open_run=open_run,
    caption=lambda config, rows: [f"{len(rows)} rows"],
    curves=("average", "rebasin"),
    landscape=("average", "rebasin", "best"),
)
SWEEP = Sweep("share", "Shares", "share", {"labels": (Point(0.5, "labels"), Point(1.0, "ours"))},
              {"average": Point(0.0, "average")})  # fmt: skip
TINY = Table("tiny", "Tiny", (PANEL,), (SWEEP,))


def quiet():
    return Console(file=io.StringIO(), width=120, record=True)


def reproduce(tmp_path, **changes):
    config, console = PANEL.get_config(), quiet()
    config.runs_dir, config.out_dir = str(tmp_path / "runs"), str(tmp_path / "out")
    for assignment, value in changes.items():
        override(config, f"{assignment}={value}")
    run = PANEL.open_run(config, console)
    names = [entry.name for entry in PANEL.rows]
    records = run_rows(TINY, PANEL, config, run, console, names)
    return StoredPanel(PANEL, config, run.notes, records), run, console.export_text()


@pytest.mark.slow
def test_rows_are_run_once(tmp_path):
    done, run, printed = reproduce(tmp_path)
    folder, records = tmp_path / "out", done.records
    runs = {e.name: [r for r in records if r.method == e.name] for e in PANEL.rows}
    keyed = {"rebasin": 2, "labels": 4, "ours": 4}  # two keys, soft and hard
    assert {name: len(found) for name, found in runs.items()} == {name: keyed.get(name, 1) for name in runs}
    assert [(r.variant, r.repeat) for r in runs["ours"]] == [
        ("soft", 0),
        ("hard", 0),
        ("soft", 1),
        ("hard", 1),
    ]
    assert printed.count("Avg within") == 11 and "0 row(s) to go" in printed
    assert all(set(record.metrics) == set(ALL_METRICS) for record in records)
    ensemble = runs["ensemble"][0].metrics
    assert ensemble["task_a_within"] == runs["model_a"][0].metrics["task_a_within"]
    assert ensemble["task_b_within"] == runs["model_b"][0].metrics["task_b_within"]
    assert ensemble["joint"] == runs["teacher_confidence"][0].metrics["joint"]  # the surer one answers
    assert runs["best"][0].found in ({"gamma": 0.5}, {"gamma": 1.0})
    assert runs["average"][0].found == {}
    counted = sum(r.seconds for r in records if r.variant != "hard")
    assert total_seconds(records) == pytest.approx(counted)

    lines = (folder / "results.jsonl").read_text().splitlines()
    (folder / "results.jsonl").write_text("\n".join(lines[:5]) + "\n")  # as if killed after the fifth row
    again, _, printed = reproduce(tmp_path, pairs=2)
    assert printed.count("Avg within") == 6 + 11
    assert printed.count("found in") == 6  # in the store; the second pair's are new
    assert [r.metrics for r in again.records if r.pair == 0] == [r.metrics for r in records]

    with pytest.raises(ValueError, match=r"out_dir must be new or hold results of these settings.*\(seed\)"):
        reproduce(tmp_path, seed=7)

    console = quiet()
    write_panel(TINY, done, run, console)
    write_table(TINY, done.config.out_dir)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "results.jsonl", "results.md", "results.csv", "interpolation.png", "landscape.png",
        "share.png", "figure.json",
    }  # fmt: skip
    text = (folder / "results.md").read_text()
    assert text.startswith(panel_text(TINY, PANEL, done.config, records)) and "Found by search" in text
    unsearched = [record for record in records if not record.found]
    assert "Found by search" not in panel_text(TINY, PANEL, done.config, unsearched)
    assert "*50.00*" in text and text.endswith(f"took {total_seconds(records):,.0f} s.\n")
    curves = json.loads((folder / "figure.json").read_text())["curves"]
    rows = {(row.method, row.variant): row for row in summarise(again.records)}  # all that is stored
    assert curves["x"] == [0.5, 1.0] and [one["name"] for one in curves["series"]] == [
        "labels, soft",
        "labels, hard",
    ]
    assert curves["series"][0]["y"] == [rows[name, "soft"].mean["joint"] for name in ("labels", "ours")]
    stored = json.loads((folder / "config.json").read_text())["rows"]["labels"]
    assert stored["options"]["zeta"] == 0.0 and stored["options"]["optimizer"].endswith(".adam")
    assert stored["real_labels"] == 0.5


def test_overrides_are_typed():
    config = PANEL.get_config()
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
        override(PANEL.get_config(), assignment)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--table, --figure or --all must be given"),
        (["--table=mudsc"], "unknown table 'mudsc'. Did you mean 'mudsc_s1'"),
        (["--figure=5,7", "--out_dir=out"], "--out_dir must be left out with a figure and more; got out"),
        (["--table=5", "--panels=disjont"], "unknown panel 'disjont'. Did you mean 'disjoint'"),
        (["--table=5", "--set=task.ratio=0"], "task.ratio must be a number > 0; got 0.0"),
        (["--table=mudsc_s1", "--pairs=0"], "--pairs must be >= 1; got 0"),
        (["--table=mudsc_s1", "--rows=zipt"], "unknown row 'zipt'. Did you mean 'zipit'"),
        (["--figure=5", "--pairs=2"], "--pairs must be left out with --figure; got 2"),
        (["--table=5", "--set=data.dir=here"], "--set must be --data_dir, its own flag; got data.dir=here"),
        (["--table=mudsc_s1", "--set=sede=1"], "unknown field 'sede'. Did you mean 'seed'"),
    ],
)
@pytest.mark.slow
def test_errors_are_one_line(args, message, tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "reproduce.py"), *args]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
