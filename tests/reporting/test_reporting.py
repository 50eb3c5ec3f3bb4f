import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from autofusion_jax.reporting.figures import _visible, interpolation_figure, permutation_figure, save_figure
from autofusion_jax.reporting.records import Record, read_records, summarise, write_records
from autofusion_jax.reporting.tables import markdown_table, rich_table, table_cells


def record(pair, repeat, joint, method="autofusion", variant="soft"):
    metrics = {"joint": joint, "task_a": joint, "task_b": joint, "avg": joint}
    return Record("c", method, variant, pair, repeat, pair, metrics, 10, 2.0, None)


RECORDS = [record(0, 0, 80.0), record(0, 1, 90.0), record(1, 0, 60.0), record(1, 1, 62.0)]


def test_summary_by_hand():
    (row,) = summarise(RECORDS)
    assert row.mean["joint"] == 73.0
    assert row.std_repeats["joint"] == pytest.approx((np.sqrt(50) + np.sqrt(2)) / 2)
    assert row.std_pairs["joint"] == pytest.approx(np.std([85, 61], ddof=1))
    assert (row.num_pairs, row.num_repeats) == (2, 2)


def test_records_round_trip(tmp_path):
    path = tmp_path / "r.jsonl"
    write_records(path, RECORDS)
    assert read_records(path) == RECORDS
    fields = json.loads(path.read_text().splitlines()[0])
    assert list(fields) == ["config", "method", "variant", "pair", "repeat", "seed", "metrics", "num_learned",
                            "seconds", "path"]  # fmt: skip


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


def test_large_matrices_stay_visible():
    assert _visible(np.eye(100)).sum() > 250
    soft = np.full((100, 100), 0.01)
    np.testing.assert_array_equal(_visible(soft), soft)
    large = np.zeros((500, 500))
    large[499, 3] = 0.7
    assert _visible(large).shape == (125, 125)
    assert _visible(large)[124, 0] == 0.7
