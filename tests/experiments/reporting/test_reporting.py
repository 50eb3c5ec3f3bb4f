import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from autofusion_jax.evaluation.landscape import Landscape
from autofusion_jax.evaluation.results import Result, read_results, summarise, write_results
from autofusion_jax.evaluation.tables import markdown_table, rich_table, table_cells
from autofusion_jax.plots.canvas import save_figure
from reporting.activation_figure import MapRow, activation_figure
from reporting.figures import interpolation_figure, permutation_figure, visible_entries
from reporting.landscape_figure import Marked, landscape_figure
from reporting.published import (
    Line,
    comparison_cells,
    comparison_csv,
    comparison_markdown,
    comparison_table,
)
from reporting.similarity_figure import layers_figure
from reporting.tables import heading


def record(pair, repeat, joint, method="autofusion", variant="soft"):
    metrics = {"joint": joint, "task_a": joint, "task_b": joint, "avg": joint}
    return Result("c", method, variant, pair, repeat, pair, metrics, 10, 2.0, None)


RECORDS = [record(0, 0, 80.0), record(0, 1, 90.0), record(1, 0, 60.0), record(1, 1, 62.0)]


def test_summary_by_hand():
    (row,) = summarise(RECORDS)
    assert row.mean["joint"] == 73.0
    assert row.std_repeats["joint"] == pytest.approx((np.sqrt(50) + np.sqrt(2)) / 2)
    assert row.std_pairs["joint"] == pytest.approx(np.std([85, 61], ddof=1))
    assert (row.num_pairs, row.num_repeats) == (2, 2)


def test_records_round_trip(tmp_path):
    path = tmp_path / "r.jsonl"
    write_results(path, RECORDS)
    assert read_results(path) == RECORDS
    fields = json.loads(path.read_text().splitlines()[0])
    assert list(fields) == ["config", "method", "variant", "pair", "repeat", "seed", "metrics", "num_learned",
                            "seconds", "path", "found"]  # fmt: skip


def test_records_of_other_metrics():
    """What some records lack has no mean; what all lack has no column; old files lack what is new."""
    within = {"task_a_within": 90.0, "task_b_within": 80.0, "avg_within": 85.0}
    old, new = record(0, 0, 80.0), dataclasses.replace(record(0, 1, 90.0), metrics=within)
    assert summarise([old, new])[0].mean == {}
    (row,) = summarise([new])
    assert row.mean == within
    _, (cells,) = table_cells([row])
    assert cells[1:] == ["10", "2.0"]
    stored = dataclasses.asdict(old)
    del stored["found"]
    assert Result(**stored) == old


def test_tables():
    rows = summarise([*RECORDS, record(0, 0, 50.0, "model_a", None)])
    headings, cells = table_cells(rows)
    assert headings == ["Method", "Joint", "Task A", "Task B", "Avg", "± pairs", "Learned", "Seconds"]
    assert cells[0][:2] == ["AutoFusion, soft", "73.00 ± 4.24"]
    assert cells[1][:2] == ["Model A", "50.00"]
    assert markdown_table(rows).count("\n") == 4


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_tables_fit_and_name_the_methods(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(summarise(RECORDS), "t", width=width))
    text = console.export_text()
    assert "AutoFusion, soft" in text and "73.00 ± 4.24" in text and "…" not in text


def test_figures_are_pictures(tmp_path):
    gammas = np.linspace(0, 1, 5)
    curve = dict.fromkeys(("joint", "task_a", "task_b"), 100 * gammas)
    save_figure(
        interpolation_figure({"a": curve, "b": curve}, gammas, title="t", levels={"x": 50.0}),
        tmp_path / "c.png",
    )
    matrices = {"soft": {"g": np.full((70, 70), 1 / 70)}, "hard": {"g": np.eye(70)}}
    save_figure(permutation_figure(matrices, title="t"), tmp_path / "p.png")
    for name in ("c.png", "p.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "p.png"]


def test_two_panels_with_a_network_off_the_curves(tmp_path):
    gammas, metrics = np.linspace(0, 1, 5), {"task_a": "A", "task_b": "B"}
    curve = dict.fromkeys(metrics, 100 * gammas)
    figure = interpolation_figure(
        {"line": curve},
        gammas,
        title="t",
        metrics=metrics,
        points={"star": (0.5, {"task_a": 9.0, "task_b": 8.0})},
    )
    assert [panel.get_title() for panel in figure.axes] == ["A", "B"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["line", "star"]
    assert [float(panel.lines[-1].get_ydata()[0]) for panel in figure.axes] == [9, 8]


def test_notes_above_matrices():
    figure = permutation_figure({"m": {"g": np.eye(3)}}, title="t", notes={"m": {"g": "L1 0 of 6"}})
    assert figure.axes[0].get_title() == "g\nL1 0 of 6"


def test_activation_maps_are_relative_to_their_own_largest_value(tmp_path):
    image = np.zeros((6, 6, 1), np.float32)
    image[2:4, 2:4] = 1
    hot = np.zeros((6, 6), np.float32)
    hot[0, 0] = 50
    row = MapRow("three", image, (hot, np.zeros_like(hot)), ("says 3", "says 5"))
    figure = activation_figure([row, row], ["A", "B"], title="t")
    assert [panel.get_title() for panel in figure.axes[:3]] == ["input", "A", "B"]
    shown = [np.asarray(panel.images[0].get_array()) for panel in figure.axes[:3]]
    assert shown[0].shape == (6, 6) and shown[1].max() == 1 and shown[2].max() == 0
    assert figure.axes[1].get_xlabel() == "says 3" and figure.axes[3].get_ylabel() == "three"
    save_figure(figure, tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.mode == "P" and min(picture.size) > 200


def test_lines_over_layers():
    mean, spread = np.array([0.9, 0.4]), np.array([0.1, 0.2])
    panels = {"left": {"one": (mean, spread)}, "right": {"two": (mean, None), "one": (mean, spread)}}
    figure = layers_figure(panels, ["conv_0", "conv_1"], title="t", ylabel="CKA")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    colors = [panel.containers[-1].lines[0].get_color() for panel in figure.axes]
    assert colors[0] == colors[1] and figure.axes[0].get_ylim()[0] == pytest.approx(0.1)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["conv_0", "conv_1"]


def test_three_tasks_in_tables_and_files(tmp_path):
    metrics = {"joint": 60.0, "tasks": {"mnist": 70.0, "kmnist": 50.0, "task_c": 60.0}, "avg": 60.0}
    records = [dataclasses.replace(record(0, 0, 80.0), metrics=metrics)]
    write_results(tmp_path / "r.jsonl", records)
    assert json.loads((tmp_path / "r.jsonl").read_text())["metrics"] == metrics
    assert read_results(tmp_path / "r.jsonl") == records
    headings, (cells,) = table_cells(summarise(records), heading=heading)
    assert headings[1:6] == ["Joint", "MNIST", "KMNIST", "Task C", "Avg"]
    assert cells[1:6] == ["60.00", "70.00", "50.00", "60.00", "60.00"]


LINES = [
    Line("Ours", summarise(RECORDS)[0], {"joint": 61.0}),
    Line("Not run", None, {"joint": 50.5}),
    Line("Nothing published", summarise(RECORDS[:2])[0]),
]


def test_comparison_cells_by_hand():
    headings, cells = comparison_cells(LINES, ("joint", "task_a", "avg_within"))
    assert headings == ["Method", "Joint", "published", "Task A", "Avg within"]
    assert cells == [
        ["Ours", "73.00 ± 16.97 (4.24)", "61.00", "73.00 ± 16.97 (4.24)", "-"],
        ["Not run", "-", "50.50", "-", "-"],
        ["Nothing published", "85.00 (7.07)", "-", "85.00 (7.07)", "-"],
    ]


def test_comparison_in_all_forms():
    text = comparison_markdown(LINES, ("joint",))
    assert text.splitlines()[2] == "| Ours | 73.00 ± 16.97 (4.24) | *61.00* |"
    rows = list(csv.reader(io.StringIO(comparison_csv({"vgg": LINES}, ("joint",)))))
    heads = ["panel", "method", "pairs", "repeats", "num_learned", "seconds"]
    assert rows[0] == [*heads, "joint_mean", "joint_std_pairs", "joint_std_repeats", "joint_published"]
    assert rows[1] == ["vgg", "Ours", "2", "2", "10", "2.000", "73.0000", "16.9706", "4.2426", "61.00"]
    assert rows[2] == ["vgg", "Not run", "0", "0", "", "", "", "", "", "50.50"]
    for width, number in ((120, "73.00 ± 16.97 (4.24)"), (60, "73.00")):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(comparison_table(LINES, ("joint", "avg"), "t", width=width, costs=True))
        shown = console.export_text()
        assert all(word in shown for word in (number, "Nothing published", "Seconds")), width
        assert "…" not in shown, width


def test_landscapes_are_pictures(tmp_path):
    xs = ys = np.linspace(-1, 1, 7, dtype=np.float32)
    bowl = xs[None] ** 2 + ys[:, None] ** 2 + 0.1
    coords = np.array([[-1, 0], [1, 0], [0, 0], [0, 0.5]])
    losses = {"average": bowl, "task_a": bowl + xs, "task_b": np.full_like(bowl, np.nan)}
    landscape = Landscape(xs, ys, losses, coords, np.array([0.7, 0.3]))
    marks = [Marked("first", 2, (0, 1)), Marked("second", 3, (0, 1))]
    figure = landscape_figure(landscape, marks, title="t")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["parents", "first", "second"]
    save_figure(figure, tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as image:
        assert min(image.size) > 200 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 20


def test_large_matrices_stay_visible():
    assert visible_entries(np.eye(100)).sum() > 250
    soft = np.full((100, 100), 0.01)
    np.testing.assert_array_equal(visible_entries(soft), soft)
    large = np.zeros((500, 500))
    large[499, 3] = 0.7
    assert visible_entries(large).shape == (125, 125)
    assert visible_entries(large)[124, 0] == 0.7
