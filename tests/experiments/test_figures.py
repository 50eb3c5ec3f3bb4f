"""Figures of the paper at a tiny size: their files, their numbers, and that nothing is made twice."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import autofusion_jax as af
import figures
from autofusion_jax.evaluation.accuracy import evaluate
from configs.models import model_config
from configs.schema import Config, DataConfig
from data.registry import load_dataset
from figures import FIGURE_FILE, FIGURES, layers, maps, run_figure
from figures.interpolation import ROWS, STRATEGIES
from figures.permutations import FIGURE_7
from figures.schema import (
    FAST,
    FULL,
    Contents,
    Curves,
    Drawing,
    Series,
    Sizes,
    file_name,
    merge_row,
    result_of,
)
from pipeline import engine
from pipeline.endpoints import open_run
from pipeline.rows import make_networks
from pipeline.run_folder import run_rows
from training.loop import TrainOptions

TINY = Sizes(
    gammas=3,
    test_images=200,
    activation_images=60,
    paper_epochs=1,
    default_epochs=1,
    pairs=2,
)
RUN = ("4", "3", "5", "6", "7", "cka")  # 8 and 9 are 6 with more rows
OPTIONS = {"zeta": 0.0}


def tiny_config(name="tiny"):
    return Config(
        name=name,
        data=DataConfig("digits", num_validation=100, num_unlabelled=1000),
        model=model_config("vgg", widths=(4, 6), pool_after=(0,)),
        train=TrainOptions(epochs=2, batch_size=64, segment=25),
    )


def quiet():
    return Console(file=io.StringIO(), width=200)


def tiny(figure):
    """The figure on digits, with fewer of its merges."""
    configs = tuple(lambda i=i: tiny_config(f"tiny_{i}") for i in range(len(figure.configs)))
    wanted = [e for e in figure.rows if e.options.get("strategy", "normalized") == "normalized"]
    entries = tuple(
        dataclasses.replace(e, options=OPTIONS if e.method.startswith("autofusion") else {}) for e in wanted
    )
    return dataclasses.replace(figure, configs=configs, rows=entries)


@pytest.fixture(scope="module")
def tiny_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FULL", TINY)
        for name in RUN:
            patch.setitem(FIGURES, name, tiny(FIGURES[name]))
        yield FIGURES


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_figures):
    return tmp_path_factory.mktemp("runs")


def make(name, runs, **options):
    arguments = {"out_dir": "", "runs_dir": str(runs), "data_dir": "", "seed": None, "fast": False}
    return run_figure(name, **{**arguments, "console": quiet(), **options})


def drawing_of(name, runs):
    """A figure at its tiny size, with the pair that it shows."""
    figure = FIGURES[name]
    config = figure.configs[0]()
    config.runs_dir = str(runs)
    drawing = Drawing(figure, runs, TINY, {config.name: open_run(config, quiet())}, quiet())
    return drawing, drawing.run.pair(0)


def accuracy(pair, params, images, metric):
    dataset = pair.run.dataset
    rows = np.linspace(0, len(dataset.test_labels) - 1, images).round().astype(int)
    x, labels = pair.run.test_x[rows], dataset.test_labels[rows]
    return evaluate(pair.run.model.apply, params, x, labels, pair.split.tasks)[metric]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_every_figure_says_what_it_holds(name, runs):
    folder = make(name, runs)
    assert folder == runs / f"figure_{name}"
    stored = json.loads((folder / FIGURE_FILE).read_text())
    assert stored["figure"] == name and stored["title"] and len(stored["caption"]) > 100
    assert stored["command"] == f"python experiments/reproduce.py --figure={name}"
    files = [panel["file"] for panel in stored["panels"]]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*files, FIGURE_FILE])
    for panel in stored["panels"]:
        assert set(panel) == {"file", "alt", "layer", "method", "sample"} and len(panel["alt"]) > 60
        with Image.open(folder / panel["file"]) as image:
            assert image.format == "PNG" and min(image.size) > 200
    assert (stored["curves"] is not None) == (name in ("3", "4", "cka"))
    for series in (stored["curves"] or {"series": []})["series"]:
        assert len(series["y"]) == len(stored["curves"]["x"])


@pytest.mark.slow
def test_curves_end_at_the_endpoints(runs):
    _, pair = drawing_of("4", runs)
    stored = json.loads((make("4", runs) / FIGURE_FILE).read_text())["curves"]
    assert stored["x"] == [0, 0.5, 1]
    images = TINY.test_images
    for series in stored["series"]:
        assert series["y"][-1] == pytest.approx(accuracy(pair, pair.params_a, images, "joint"), abs=1e-4)
        if not series["name"].endswith("soft"):  # a soft B is another network
            assert series["y"][0] == pytest.approx(accuracy(pair, pair.params_b, images, "joint"), abs=1e-4)
    middle = {series["name"]: series["y"][1] for series in stored["series"]}
    average = jax.tree.map(lambda a, b: (a + b) / 2, pair.params_a, pair.params_b)
    assert middle["plain interpolation"] == pytest.approx(accuracy(pair, average, images, "joint"), abs=1e-4)


@pytest.mark.slow
def test_nothing_is_made_twice(runs, monkeypatch):
    folder = make("4", runs)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(engine, "make_networks", None)
    make("4", runs)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    make("3", runs, out_dir=str(runs / "again"))  # from the merges and the curves of figure 4
    (folder / "soft.png").unlink()
    make("4", runs)
    assert (folder / "soft.png").is_file()


@pytest.mark.slow
def test_other_settings_make_the_figure_anew(runs, tmp_path, monkeypatch):
    make("4", runs, out_dir=str(tmp_path))
    (tmp_path / "soft.png").write_bytes(b"")
    make("4", runs, out_dir=str(tmp_path))
    assert (tmp_path / "soft.png").stat().st_size == 0
    monkeypatch.setattr(figures, "FULL", dataclasses.replace(TINY, activation_images=50))
    make("4", runs, out_dir=str(tmp_path))
    stored = json.loads((tmp_path / FIGURE_FILE).read_text())
    assert stored["settings"]["sizes"]["activation_images"] == 50
    assert (tmp_path / "soft.png").stat().st_size > 0


@pytest.mark.slow
def test_l1_complexity_is_that_of_the_kept_permutations(runs):
    drawing, pair = drawing_of("5", runs)
    stored = json.loads((make("5", runs) / FIGURE_FILE).read_text())["numbers"]
    assert stored["l1_largest"] == {"conv_0": 8, "conv_1": 12}
    perms = result_of(drawing.merge(pair, drawing.row(drawing.figure.rows[0]))).perms
    moved = {
        group: 2 * int((np.asarray(perm) != np.arange(len(perm))).sum()) for group, perm in perms.items()
    }
    assert stored["l1_complexity"]["Git Re-Basin"] == moved


@pytest.mark.slow
def test_spread_is_over_pairs(runs, monkeypatch, tmp_path):
    pair = drawing_of("cka", runs)[1]
    measured = iter(([0.2, 0.4], [0.4, 0.8]))
    headings = [heading for pair in layers.PICTURES.values() for heading in pair]

    def measure(drawing, pair):
        values = np.array(next(measured))
        return {f"{heading}|some method": values for heading in headings}

    monkeypatch.setattr(layers, "_measure", measure)
    monkeypatch.setattr(type(pair.run), "pair", lambda self, number: pair)
    monkeypatch.setattr(figures, "FULL", dataclasses.replace(TINY, pairs=2))
    curves = json.loads((make("cka", runs, out_dir=str(tmp_path)) / FIGURE_FILE).read_text())["curves"]
    assert len(curves["series"]) == len(headings)
    for series in curves["series"]:
        assert series["y"] == pytest.approx([0.3, 0.6])
        assert series["error"] == pytest.approx([0.1 * 2**0.5, 0.2 * 2**0.5], abs=1e-5)


@pytest.mark.slow
def test_a_kept_merge_is_the_merge(runs):
    drawing, pair = drawing_of("4", runs)
    row = drawing.row(merge_row("weight_matching", "Git Re-Basin"), labelled=1000)
    key = jax.random.split(jax.random.fold_in(jax.random.key(pair.split.seed), 100), 1)[0]
    result = af.merge(pair.params_a, pair.params_b, pair.spec, None, method="weight_matching", key=key)
    for _ in range(2):
        networks = drawing.merge(pair, row)
        jax.tree.map(np.testing.assert_array_equal, dict(result_of(networks).perms), dict(result.perms))
        jax.tree.map(np.testing.assert_array_equal, networks[0].params, result.params)
    x, y = pair.labelled(1000)
    data = load_dataset("digits")
    known = {row.tobytes(): label for row, label in zip(data.train_images, data.train_labels)}
    images = np.asarray(jnp.round(255 * x), np.uint8)
    assert len(y) == 1000 and [known[image.tobytes()] for image in images] == y.tolist()


@pytest.mark.slow
def test_the_merge_of_a_run_is_that_of_a_figure(tiny_figures, tmp_path, monkeypatch):
    """`merge.py` and a figure ask for the same merge: it is computed and stored once."""
    drawing, pair = drawing_of("5", tmp_path / "runs")
    (row,) = [drawing.row(row) for row in drawing.figure.rows if row.method == "weight_matching"]
    drawing.merge(pair, row)
    made = []
    monkeypatch.setattr(
        engine, "make_networks", lambda row, pair: made.append(row.name) or make_networks(row, pair)
    )
    config = drawing.run.config
    config.merge.methods, config.merge.references = ("weight_matching", "interpolation"), ("model_a",)
    config.evaluate.curve_points = 3
    found = run_rows(tmp_path, drawing.run)
    assert made == ["model_a", "interpolation"]
    methods = list(dict.fromkeys(result.method for result in found))
    assert methods == ["model_a", "weight_matching", "interpolation"]
    assert (tmp_path / found[1].path / "manifest.json").is_file()


def test_the_figures_are_those_of_the_paper():
    assert set(FIGURES) == {"3", "4", "5", "6", "7", "8", "9", "cka"}
    assert FULL.gammas == 50 and FULL.paper_epochs == 64 and FAST.gammas < 20
    assert [e.options["strategy"] for e in ROWS if "strategy" in e.options] == list(STRATEGIES)
    assert [build().name for build in FIGURE_7.configs] == ["mnist_vgg", "kmnist_vgg", "fashion_vgg"]
    assert FIGURES["9"].configs[0]().name == "kmnist_vgg" and FIGURES["8"].draw.func is maps.draw


def test_a_first_look_is_small_and_in_a_folder_of_its_own(runs, monkeypatch):
    seen = []
    figure = dataclasses.replace(tiny(FIGURES["4"]), fast=ROWS[:1])
    monkeypatch.setitem(
        FIGURES,
        "4",
        dataclasses.replace(figure, draw=lambda drawing: seen.append(drawing) or Contents("", ())),
    )
    folder = make("4", runs, fast=True)
    (drawing,) = seen
    assert folder == runs / "figure_4_fast"
    assert json.loads((folder / FIGURE_FILE).read_text())["command"].endswith("--figure=4 --fast")
    assert drawing.sizes == FAST and drawing.figure.rows == ROWS[:1]
    full = figure.configs[0]()
    assert drawing.run.config.data.num_train == 4000 and full.data.num_train == 0
    assert drawing.run.config.data.num_unlabelled < full.data.num_unlabelled


def test_missing_numbers_are_null():
    curves = Curves("x", "y", [0, 1], [Series("s", "m", np.array([1.0, np.nan]), None)])
    assert curves.to_json() == {
        "x_title": "x", "y_title": "y", "x": [0, 1],
        "series": [{"name": "s", "metric": "m", "y": [1.0, None], "error": None}],
    }  # fmt: skip


def test_names():
    assert file_name("AutoFusion (paper), soft", "conv_0") == "autofusion_paper_soft_conv_0.png"
    with pytest.raises(ValueError, match="--figure: unknown figure 'ckA'. Did you mean 'cka'"):
        make("ckA", Path("nowhere"))


def test_sizes_of_the_tiny_data_fit():
    assert open_run(tiny_config(), quiet()).dataset.test_labels.size >= TINY.test_images
