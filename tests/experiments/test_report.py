"""The results page: what it says, and that it needs nothing from outside."""

import dataclasses
import datetime
import html
import html.parser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autofusion_jax.evaluation.results import read_results, write_results
from reporting.tables import title_of
from tables import TABLES
from tests.experiments.report_runs import ACCURACY, HOSTILE, record, write_all, write_figure, write_merge
from webreport import charts, headline, page, summary
from webreport.collect import collect, read_histories
from webreport.page import write_page

SCRIPT = Path(__file__).parents[2] / "experiments" / "report.py"
OUTSIDE = ("src", "href", "srcset", "poster", "action", "data", "xlink:href")


class Elements(html.parser.HTMLParser):
    """All start tags with their attributes, and the text by the tag that it stands in."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.tags[-1][0], data.strip()))

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = write_all(tmp_path_factory.mktemp("runs"))
    out = tmp_path_factory.mktemp("report") / "page"
    return write_page(*collect(root), out).path


@pytest.fixture(scope="module")
def elements(made):
    return Elements(made.read_text(encoding="utf-8"))


def test_it_shows_every_method_with_its_numbers(elements):
    cells = [text for _, text in elements.texts]
    for (method, variant), joint in ACCURACY.items():
        assert title_of(method, variant) in cells
        assert f"{joint + 0.5:.2f}" in cells  # the mean over both pairs
    assert cells.count("± 0.71") >= len(ACCURACY)
    assert "caution" in cells and "Caption." not in cells


def test_names_are_escaped(made, elements):
    text = made.read_text(encoding="utf-8")
    assert HOSTILE not in text and "<script>alert" not in text
    assert any(data.startswith("<script>alert(1)</script>") for _, data in elements.texts)
    assert HOSTILE in elements.named("img")[-1]["alt"]


def test_nothing_comes_from_outside(made, elements):
    for tag, attributes in elements.tags:
        for name in OUTSIDE:
            value = attributes.get(name) or ""
            assert not value.startswith(("http:", "https:", "//", "file:")) or tag == "a"
    images = elements.named("img")
    assert images and all((made.parent / image["src"]).is_file() and image["alt"] for image in images)
    text = made.read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "secret/place" not in text  # where files lay on the machine of the run
    (policy,) = (m["content"] for m in elements.named("meta") if "http-equiv" in m)
    assert "unsafe" not in policy and len(text) < 200_000


def test_its_parts_are_marked_up(elements):
    ids = [attributes["id"] for _, attributes in elements.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in elements.named("a") if a["href"].startswith("#")]
    assert links and set(links) <= set(ids)
    assert len(elements.named("caption")) == len(elements.named("table")) == 5
    assert all(head.get("scope") for head in elements.named("th"))
    assert [len(elements.named(name)) for name in ("h1", "main", "nav")] == [1, 1, 1]


def test_the_same_folder_gives_the_same_page(made, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "machine_facts", lambda: {"Date": datetime.date(2026, 1, 1).isoformat()})
    root = write_all(tmp_path / "runs")
    first = write_page(*collect(root), tmp_path / "one").path.read_bytes()
    assert write_page(*collect(root), tmp_path / "two").path.read_bytes() == first
    assert write_page(*collect(root), tmp_path / "one").path.read_bytes() == first


def test_tables_keep_their_order_and_what_was_published(tmp_path):
    runs, _ = collect(write_all(tmp_path))
    (setting,) = summary.settings(next(run for run in runs if run.panel == "mlp"), "anchor", "")
    assert [(line.title, line.kind) for line in setting.lines] == [
        ("Model A", summary.SPECIALIST), ("Half way", summary.HEADS), ("The mean", summary.MERGED),
    ]  # fmt: skip
    assert setting.lines[2].published == {"joint": 21.5}
    assert setting.best(setting.lines).title == "Half way"
    assert setting.of_kind(summary.MERGED).title == "The mean"


def test_the_headline_is_the_best_merge(tmp_path):
    write_merge(tmp_path / "one")
    runs, _ = collect(tmp_path)
    bars = headline.headline(summary.settings(runs[0], "anchor", "")[0])
    assert [bar.line.method for bar in bars if bar.best] == ["autofusion"]
    assert [bar.line.method for bar in bars][-3:] == [
        "teacher_confidence", "control_ridge_head", "real_labels_training",
    ]  # fmt: skip
    assert headline.verdict(bars, "joint") == [
        "61.0 points above the plain average", "31.0 points above the paper's settings",
        "2.0 points below the teacher, which runs all networks", "8.0 points below training on real labels",
    ]  # fmt: skip
    best = next(bar.line for bar in bars if bar.best)
    level = [bar._replace(line=dataclasses.replace(bar.line, row=best.row)) for bar in bars]
    assert all(said.startswith("level with ") for said in headline.verdict(level, "joint"))


@pytest.mark.parametrize(
    ("merge", "fresh", "distilled", "said"),
    [
        (90.0, 85.0, 80.0, "beats every control that was run: “Fresh network on pseudo-labels”, “Average"),
        (90.0, 90.3, 80.0, "does not beat “Fresh network on pseudo-labels” (0.3 points apart, within the"),
        (90.0, 95.0, 99.0, "beats neither “Fresh network on pseudo-labels” (5.0 points below) nor"),
    ],
)
def test_a_merge_is_worth_what_it_adds_to_its_controls(merge, fresh, distilled, said, tmp_path):
    joints = {"autofusion": merge, "control_random_network": fresh, "control_distillation": distilled}
    records = [record("one", name, None, pair, 0, joint + pair)
               for name, joint in joints.items() for pair in (0, 1)]  # fmt: skip
    write_results(tmp_path / "results.jsonl", records)
    (setting,) = summary.settings(collect(tmp_path)[0][0], "anchor", "one")
    assert headline.worth(setting).startswith(f"The best merge {said}")
    assert ("merging is worth nothing" in headline.worth(setting)) == (distilled == 99.0)
    (line,) = headline.overview_table([setting]).lines
    assert line.cells[-2].small.endswith("not beaten") == (fresh > merge)


def stored_setting(table):
    folder = SCRIPT.parents[1] / "docs" / "results" / table
    return summary.settings(collect(folder)[0][0], "anchor", "")[0]


@pytest.mark.parametrize(
    ("table", "average", "teacher", "oracle"),
    [
        ("fusion", ("average", False), "max_model", "ensemble"),
        ("fusion_aligned", ("average", False), None, "ensemble"),
        ("fusion_heads/own_starts", ("average", False), None, "ensemble"),
        ("catalogue/mnist_mlp_weight_matching", ("average", True), None, None),
        ("cifar5_resnet20", ("average", False), "ensemble", None),
        ("autofusion_3", ("interpolation_all", False), "teacher_confidence", None),
    ],
)
def test_stored_tables_are_compared_with_what_they_hold(table, average, teacher, oracle):
    """Networks side by side are an oracle where the task is told, and a teacher where it is not."""
    setting = stored_setting(table)
    line = setting.of_average()
    assert (line.row.method, line.aligned) == average
    for kind, expected in ((summary.TEACHER, teacher), (summary.ORACLE, oracle)):
        found = setting.of_kind(kind)
        assert (found and found.row.method) == expected


@pytest.mark.parametrize(
    ("ours", "roles"),
    [
        (30.0, [headline.AVERAGE, f"{headline.BEST}: {headline.PAPER}"]),
        (70.0, [headline.AVERAGE, headline.PAPER, headline.BEST]),
    ],
)
def test_rows_in_the_papers_settings_are_known_by_their_options(ours, roles, tmp_path):
    """As tables 2 and 4 to 8 name them; with real labels they are references."""
    rows = {
        "average": ("interpolation", {}, 20.0), "weighted": ("autofusion_paper", {}, 50.0),
        "rounded": ("autofusion_paper", {}, 60.0), "ours": ("autofusion", {}, ours),
        "labels_10": ("autofusion_paper", {}, 80.0),
    }  # fmt: skip
    stored = {name: {"method": method, "options": options} for name, (method, options, _) in rows.items()}
    stored["labels_10"]["real_labels"] = 0.1
    text = json.dumps({"table": "2", "panel": "vgg", "config": {}, "rows": stored})
    (tmp_path / "config.json").write_text(text)
    records = [record("2/vgg", name, None, 0, 0, joint) for name, (*_, joint) in rows.items()]
    write_results(tmp_path / "results.jsonl", records)
    (setting,) = summary.settings(collect(tmp_path)[0][0], "anchor", "")
    assert setting.of_paper().row.method == "rounded"
    bars = headline.headline(setting)
    assert [bar.role for bar in bars] == [*roles, headline.LABELLED]
    assert next(bar.line.row.mean["joint"] for bar in bars if bar.best) == max(ours, 60.0)
    said = headline.verdict(bars, "joint")
    assert len(said) == len(roles) and ("10.0 points above the paper's settings" in said) == (ours == 70.0)
    (line,) = headline.overview_table([setting]).lines
    assert line.cells[3].text == "60.00"


def test_histories_are_of_the_first_pair(tmp_path):
    write_merge(tmp_path / "one")
    histories = read_histories(collect(tmp_path)[0][0])
    assert list(histories) == ["autofusion_paper", "autofusion"]
    np.testing.assert_array_equal(histories["autofusion"]["retain"], [[3.0, 2.0, 1.0]])


def test_series_of_one_subject_share_a_view():
    names = ["MLP: soft", "MLP: hard", "VGG: soft"]
    series = [{"name": name, "metric": "cka", "y": [1.0, 2.0], "error": None} for name in names]
    curves = {"x_title": "x", "y_title": "y", "x": [1, 2], "series": series}
    many = {**curves, "x": list(range(50)), "series": [{**series[0], "y": [1.0] * 50}]}
    log, linear, crowded = (
        charts.figure_chart(c, "label")["views"][0] for c in ({**curves, "log_x": True}, curves, many)
    )
    assert log["log_x"] and not linear["log_x"]
    assert log["ticks"] == linear["ticks"] == [1, 2] and crowded["ticks"] is None
    views = charts.figure_chart(curves, "label")["views"]
    lines = {view["title"]: [(line["name"], line["place"]) for line in view["lines"]] for view in views}
    assert lines == {"MLP": [("soft", 0), ("hard", 1)], "VGG": [("soft", 0)]}
    curves["series"] = [{**s, "metric": metric} for s in series[:1] for metric in ("joint", "task_a")]
    titles = [view["title"] for view in charts.figure_chart(curves, "label")["views"]]
    assert titles == ["MLP: Joint", "MLP: Task A"]


def test_matrices_are_drawn_unit_by_unit(made):
    with Image.open(made.parent / "images" / "digits-mlp" / "matrix0.png") as image:
        assert image.size == (8, 8)
        lightness = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(lightness.argmax(1), np.arange(8)[::-1])


def test_what_is_missing_is_left_out(tmp_path):
    write_merge(tmp_path / "runs" / "one")
    for name in ("drawn.npz", "checkpoints", "config.json", "table.md"):
        path = tmp_path / "runs" / "one" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elements = Elements(write_page(*collect(tmp_path / "runs"), tmp_path / "out").path.read_text("utf-8"))
    assert not elements.named("details") and not elements.named("input")[1:] and not elements.named("img")
    assert len(elements.named("table")) == 1
    write_figure(tmp_path / "figures" / "one")
    elements = Elements(write_page(*collect(tmp_path / "figures"), tmp_path / "out").path.read_text("utf-8"))
    assert not elements.named("table") and len(elements.named("img")) == 4


def commands(path):
    found = re.findall(r'aria-label="Command">(.*?)</pre>', path.read_text(encoding="utf-8"), re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", text)) for text in found]


def report(*args, script=SCRIPT):
    done = subprocess.run([sys.executable, str(script), *args], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


TINY = (
    "--table=inputs", "--panels=100,300", "--rows=interpolation,teacher_em", "--pairs=1",
    "--set=data.name=digits", "--set=data.num_validation=100", "--set=model.widths=(8,)",
    "--set=train.epochs=1",
)  # fmt: skip


@pytest.mark.slow
def test_it_shows_what_reproduce_writes(tmp_path):
    runs = tmp_path / "runs"
    status, printed = report(*TINY, f"--runs_dir={runs}", script=SCRIPT.with_name("reproduce.py"))
    assert status == 0, printed
    status, printed = report(f"--runs={runs}", f"--out={tmp_path / 'out'}")
    assert status == 0 and printed.startswith("1 table, 2 settings, 1 figure"), printed
    elements = Elements((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    texts = [text for _, text in elements.texts]
    counts = " ".join(printed.split()).partition(" in /")[0]
    assert any(counts in " ".join(text.split()) for text in texts)
    for panel in ("100", "300"):
        records = read_results(runs / "table_inputs" / panel / "results.jsonl")
        assert [one.method for one in records] == ["interpolation", "teacher_em"]
        assert {f"{one.metrics['joint']:.2f}" for one in records} <= set(texts)
        assert {title_of(one.method, None) for one in records} <= set(texts)
    assert sum(image["src"].endswith("/inputs.png") for image in elements.named("img")) >= 1
    charts_of = [json.loads(text) for text in texts if text.startswith('{"gammas"')]
    assert ["EM teacher"] in [[line["name"] for line in c["views"][0]["lines"]] for c in charts_of]
    shown = [shlex.split(text) for text in commands(tmp_path / "out" / "index.html")]
    assert len(shown) == 2  # the table's and the figure's
    assert all(sorted(words[2:]) == sorted(TINY) for words in shown)
    (runs / "table_inputs" / "results.md").unlink()  # what the headings of panels share is the table's
    again = Elements(write_page(*collect(runs), tmp_path / "again").path.read_text("utf-8"))
    assert ("h2", TABLES["inputs"].title) in elements.texts and ("h2", TABLES["inputs"].title) in again.texts


def test_errors_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    status, printed = report(f"--runs={tmp_path / 'empty'}", f"--out={tmp_path / 'out'}")
    assert status == 2 and printed.startswith("error: report: --runs must be a folder with results")
    assert printed.count("\n") == 1 and not (tmp_path / "out").exists()


def test_broken_results_are_named(tmp_path):
    write_merge(tmp_path / "one")
    (tmp_path / "one" / "results.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"one/results\.jsonl, line 1: must be a result as JSON; missing"):
        collect(tmp_path)
    shutil.rmtree(tmp_path / "one")
    write_figure(tmp_path / "two")
    figure = json.loads((tmp_path / "two" / "figure.json").read_text())
    figure["panels"][0]["file"] = "../elsewhere.png"
    (tmp_path / "two" / "figure.json").write_text(json.dumps(figure))
    with pytest.raises(ValueError, match="an image beside it"):
        collect(tmp_path)


def test_another_folder_is_not_written_over(tmp_path):
    write_merge(tmp_path / "runs" / "one")
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="--out must be new"):
        write_page(*collect(tmp_path / "runs"), tmp_path / "out")
    assert (tmp_path / "out" / "images" / "mine.txt").is_file()
