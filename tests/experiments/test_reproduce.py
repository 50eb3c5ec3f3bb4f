"""Tables of papers: running their rows, going on, refusing other settings; all tables at a tiny size."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from autofusion_jax.data.registry import DATASETS
from autofusion_jax.evaluation.accuracy import ALL_METRICS
from autofusion_jax.merging.registry import get_method
from autofusion_jax.models.layers import class_vectors
from autofusion_jax.models.registry import build_model
from autofusion_jax.reporting.comparison import comparison_csv
from autofusion_jax.reporting.records import read_records, summarise
from autofusion_jax.training.loop import TrainOptions
from configs.schema import DataConfig, EvaluateConfig, MergeConfig, MLPConfig, VGGConfig
from pipeline.references import REFERENCE_ROWS
from tables import TABLES, find_panel
from tables.mudsc_s1 import TASKS, ClipModel, class_labels
from tables.report import Finished, panel_lines, panel_text, total_seconds, write_panel, write_table
from tables.runner import panel_identity, run_rows
from tables.schema import ENSEMBLE, Entry, Panel, Point, Sweep, Table, TableConfig, open_config
from tables.settings import make_fast, override

ROOT = Path(__file__).parents[2]


def tiny_config():
    return TableConfig(
        name="tiny",
        data=DataConfig("digits", num_validation=100, num_unlabelled=200),
        model=MLPConfig(widths=(16, 16)),
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
    entries=(
        Entry("model_a", "Model A"),
        Entry("model_b", "Model B"),
        Entry("ensemble", "Ensemble"),
        Entry("teacher_confidence", "Teacher"),
        Entry("average", "Average", "interpolation", published={"joint": 50.0}),
        Entry("best", "Best average", "interpolation", search={"gamma": (0.5, 1.0)}),
        Entry("rebasin", "Git Re-Basin", "weight_matching"),
        Entry("labels", "Real labels", "autofusion", {"zeta": 0.0}, real_labels=0.5),
        Entry("ours", "AutoFusion", "autofusion", {"zeta": 0.0}),
    ),
    get_config=tiny_config,
    open_source=open_config,
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
    source = PANEL.open_source(config, console)
    names = [entry.name for entry in PANEL.entries]
    records = run_rows(TINY, PANEL, config, source, console, names)
    return Finished(PANEL, config, source, records), console.export_text()


@pytest.mark.slow
def test_rows_are_run_once(tmp_path):
    done, printed = reproduce(tmp_path)
    folder, records = tmp_path / "out", done.records
    runs = {e.name: [r for r in records if r.method == e.name] for e in PANEL.entries}
    keyed = {"rebasin": 2, "labels": 4, "ours": 4}  # two keys, soft and hard
    assert {name: len(found) for name, found in runs.items()} == {name: keyed.get(name, 1) for name in runs}
    assert [(r.variant, r.repeat) for r in runs["ours"]] == [
        ("soft", 0),
        ("hard", 0),
        ("soft", 1),
        ("hard", 1),
    ]
    assert printed.count("within tasks") == 11 and "0 row(s) to go" in printed
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
    again, printed = reproduce(tmp_path, pairs=2)
    assert printed.count("within tasks") == 6 + 11
    assert [r.metrics for r in again.records if r.pair == 0] == [r.metrics for r in records]

    with pytest.raises(ValueError, match="out_dir must be new or hold results of these settings"):
        reproduce(tmp_path, seed=7)

    console = quiet()
    write_panel(TINY, done, console)
    assert write_table(TINY, [done])[0] == folder
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "results.jsonl", "results.md", "results.csv", "interpolation.png", "landscape.png",
        "share.png", "figure.json",
    }  # fmt: skip
    text = (folder / "results.md").read_text()
    assert text.startswith(panel_text(TINY, PANEL, done.config, records)) and "Found by search" in text
    assert "*50.00*" in text and text.endswith(f"took {total_seconds(records):,.0f} s.\n")
    curves = json.loads((folder / "figure.json").read_text())["curves"]
    rows = {(row.method, row.variant): row for row in summarise(records)}
    assert curves["x"] == [0.5, 1.0] and [one["name"] for one in curves["series"]] == [
        "labels, soft",
        "labels, hard",
    ]
    assert curves["series"][0]["y"] == [rows[name, "soft"].mean["joint"] for name in ("labels", "ours")]
    stored = json.loads((folder / "config.json").read_text())["rows"]["labels"]
    assert stored["options"] == {"zeta": 0.0} and stored["real_labels"] == 0.5


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


PANELS = [(table, panel) for table in TABLES.values() for panel in table.panels]
BY_NAME = {"argvalues": PANELS, "ids": [table.label(panel) for table, panel in PANELS]}


@pytest.mark.parametrize(("table", "panel"), **BY_NAME)
def test_every_panel_is_sound(table, panel):
    assert TABLES[table.name] is table and find_panel(table.name, panel.name) == (table, panel)
    names = [entry.name for entry in panel.entries]
    assert len(set(names)) == len(names)
    assert {*panel.curves, *panel.landscape, *panel.fast} <= set(names)
    for entry in panel.entries:
        assert set(entry.published) <= set(panel.metrics)
        assert entry.real_labels is None or 0 < entry.real_labels <= 1
        if entry.method is None:
            assert entry.name in (*REFERENCE_ROWS, ENSEMBLE)
        else:
            get_method(entry.method, **entry.options)
    config = panel.get_config()
    config.train.check()
    config.task.check()
    assert panel.get_config() is not config and panel.caption(config, {})


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_sweeps_name_rows_that_are_there(table):
    entries = {panel.name: {entry.name for entry in panel.entries} for panel in table.panels}
    for sweep in table.sweeps:
        for point in (*(p for points in sweep.series.values() for p in points), *sweep.levels.values()):
            assert point.entry in entries[point.panel]
    assert set(table.fast) <= set(entries) and len(entries) == len(table.panels)


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


def stored_panels():
    """The folders of stored tables with what their settings say."""
    found = {
        path.parent: json.loads(path.read_text()) for path in (ROOT / "docs" / "results").rglob("config.json")
    }
    return [(folder, settings) for folder, settings in sorted(found.items()) if "table" in settings]


@pytest.mark.parametrize(("folder", "settings"), stored_panels(), ids=lambda v: getattr(v, "name", ""))
def test_stored_tables_come_from_their_records(folder, settings):
    """Text and numbers, in the settings that the table has today but for pairs and seeds."""
    table, panel = find_panel(settings["table"], settings.get("panel", ""))
    stored, config = settings["config"], panel.get_config()
    config.pairs, config.seed = stored["pairs"], stored["seed"]
    stored.pop("data_sha256")
    assert json.loads(json.dumps(panel_identity(config))) == stored
    records = read_records(folder / "results.jsonl")
    assert (folder / "results.md").read_text().startswith(panel_text(table, panel, config, records))
    lines = panel_lines(panel, records)
    assert (folder / "results.csv").read_text() == comparison_csv({panel.name: lines}, panel.metrics)
    assert {row.num_pairs for row in summarise(records)} == {stored["pairs"]}


DIGITS_COPIES = ("digits", "digits_b", "digits_c")


def tiny(config):
    """The settings of a panel on digits, with a tiny network; none but a ResNet becomes an MLP."""
    make_fast(config)
    resnet = config.model.name == "resnet"
    settings = ["model.widths=(4, 8, 8)", "model.depths=(1, 1, 1)"] if resnet else []
    for setting in (*settings, "data.num_train=400", "data.num_validation=100", "data.num_unlabelled=100",
                    "train.epochs=1", "train.augment=False", "merge.epochs=1"):  # fmt: skip
        override(config, setting)
    if type(config.model) is VGGConfig:
        config.model = MLPConfig(widths=(8,))
    elif not resnet:
        config.model.widths = (8,)
    config.data.name = "+".join(DIGITS_COPIES[: config.data.name.count("+") + 1])
    return config


SLOW_ROWS = {"activation_align", "mudsc_align", "weight_zip", "mudsc_zip", "autofusion", "rebasin"}
"""Rows of the ResNet that take long to compile, and that other panels have."""


def rows_to_run():
    """For each table its first panel, with the references and those rows of a kind that no table before has.

    Rows that differ in the values of options alone are of one kind; of a search the first setting is tried.
    """
    covered, chosen = set(), []
    for table in reversed(TABLES.values()):
        panel, entries = table.panels[0], []
        for entry in panel.entries:
            kind = (entry.method, bool(entry.members), entry.real_labels is None)
            slow = table.name == "cifar5_resnet20" and entry.name in SLOW_ROWS
            if entry.method in (None, "interpolation") or (kind not in covered and not slow):
                first = {option: values[:1] for option, values in entry.search.items()}
                entries.append(dataclasses.replace(entry, search=first))
                covered.add(kind)
        chosen.append((table, dataclasses.replace(panel, entries=tuple(entries), curves=(), landscape=())))
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize(("table", "panel"), rows_to_run(), ids=reversed(TABLES))
def test_every_table_at_a_tiny_size(table, panel, tmp_path, monkeypatch):
    for name in DIGITS_COPIES:
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS["digits"], name=name))
    config, console = tiny(panel.get_config()), quiet()
    names = [entry.name for entry in panel.entries]
    config.runs_dir, config.out_dir = str(tmp_path / "runs"), str(tmp_path / "out")
    source = panel.open_source(config, console)
    records = run_rows(table, panel, config, source, console, names)
    assert list(dict.fromkeys(record.method for record in records)) == names
    done = Finished(panel, config, source, records)
    write_panel(table, done, console)
    folder, files = write_table(table, [done])
    assert folder == tmp_path / "out" and {"results.md", "results.csv"} <= set(files)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--table, --figure or --all must be given"),
        (["--table=mudsc"], "unknown table 'mudsc'. Did you mean 'mudsc_s1'"),
        (["--table=5,7", "--out_dir=out"], "--out_dir must be left out with several; got out"),
        (["--table=5", "--panels=disjont"], "unknown panel 'disjont'. Did you mean 'disjoint'"),
        (["--table=5", "--set=task.ratio=0"], "ratio must be > 0; got 0.0"),
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
