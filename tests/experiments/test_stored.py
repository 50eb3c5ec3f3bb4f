"""The folders of panels: what they hold is found again, and never mixed with results of other settings."""

import io
import json

import pytest
from rich.console import Console

from autofusion_jax.evaluation.accuracy import METRICS
from autofusion_jax.evaluation.results import Result, write_results
from pipeline.endpoints import Run
from pipeline.records import read_record, read_rows, write_record, write_rows
from tables import TABLES
from tables.report import write_table
from tables.schema import CURVE_FIGURE, LANDSCAPE_FIGURE
from tables.stored import CONFIG_FILE, RESULTS_FILE, claim, panel_folder, read_panel

TABLE = TABLES["5"]
NOTE = "some images are missing"


def run_of(config):
    """A run of which no network is trained."""
    return Run(config, None, None, None, Console(file=io.StringIO(), width=400), "abc", (NOTE,), None)


def config_of(panel, out_dir):
    config = panel.get_config()
    config.out_dir, config.pairs = str(out_dir), 1
    return config


def claimed(panel, out_dir, **changes):
    config = config_of(panel, out_dir)
    for name, value in changes.items():
        setattr(config, name, value)
    claim(panel_folder(panel, config), TABLE, panel, config, run_of(config))
    return panel_folder(panel, config)


def stored(panel, out_dir, rows=("interpolation", "omega_a_0.1", "omega_a_0.9")):
    folder = claimed(panel, out_dir)
    records = [
        Result(
            TABLE.label(panel), row, None, 0, 0, 100, dict.fromkeys(METRICS, 50.0 + number), 0, 1.0, None, {}
        )
        for number, row in enumerate(rows)
    ]
    write_results(folder / RESULTS_FILE, records)
    return folder


def test_a_table_is_written_from_all_panels_whichever_was_run_last(tmp_path):
    for panel in TABLE.panels:
        stored(panel, tmp_path)
        files = write_table(TABLE, str(tmp_path))
    text = (tmp_path / "results.md").read_text()
    assert all(f"## {panel.title}" in text for panel in TABLE.panels) and text.count(NOTE) == 1
    assert {"results.csv", "weights.png"} <= set(files)
    curves = json.loads((tmp_path / "figure.json").read_text())["curves"]["series"]
    assert [one["name"] for one in curves] == ["disjoint labels", "shared labels"]


def test_what_is_stored_is_read_with_its_settings(tmp_path):
    panel = TABLE.panels[0]
    assert read_panel(panel, str(tmp_path)) is None
    stored(panel, tmp_path)
    found = read_panel(panel, str(tmp_path))
    assert found.config == config_of(panel, tmp_path) and found.notes == (NOTE,)
    assert [record.method for record in found.records] == ["interpolation", "omega_a_0.1", "omega_a_0.9"]


@pytest.mark.parametrize("content", [b"", b"{", b"changed", None])
def test_damaged_results_are_left_out_and_said(tmp_path, content):
    """Their rows are found in the store; without its settings a folder's results count as damaged, too."""
    panel = TABLE.panels[0]
    folder = stored(panel, tmp_path)
    write_rows(folder, read_rows(folder))
    path = folder / RESULTS_FILE
    if content is None:
        (folder / CONFIG_FILE).unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"50.0", b"60.0") if content == b"changed" else content)
    config = config_of(panel, tmp_path)
    run = run_of(config)
    assert claim(folder, TABLE, panel, config, run) == []
    assert f"{path} " in run.console.file.getvalue() and "made again" in run.console.file.getvalue()


def edit_config(folder, row, option, value):
    path = folder / CONFIG_FILE
    settings = read_record(path)
    settings["rows"][row]["options"][option] = value
    write_record(path, settings)


def test_results_made_with_other_options_are_refused(tmp_path):
    """Defaults count as well as what the table says; of rows without results nothing is kept."""
    panel = TABLE.panels[0]
    folder = stored(panel, tmp_path)
    edit_config(folder, "omega_a_0.5", "tau", 7.0)
    claimed(panel, tmp_path)  # has no result yet
    edit_config(folder, "omega_a_0.9", "tau", 7.0)
    before = (folder / CONFIG_FILE).read_text()
    with pytest.raises(ValueError, match=r"holds others \(row omega_a_0.9: options\)"):
        claimed(panel, tmp_path)
    assert (folder / CONFIG_FILE).read_text() == before
    with pytest.raises(ValueError, match=r"\(seed; row omega_a_0.9: options\)"):
        claimed(panel, tmp_path, seed=3)


def test_pictures_of_other_settings_are_drawn_again(tmp_path):
    panel = TABLE.panels[0]
    folder = stored(panel, tmp_path)
    for name in (CURVE_FIGURE, LANDSCAPE_FIGURE):
        (folder / name).touch()
    claimed(panel, tmp_path, pairs=2)
    assert (folder / CURVE_FIGURE).is_file() and (folder / LANDSCAPE_FIGURE).is_file()
    claimed(panel, tmp_path, landscape_points=41)
    assert not (folder / CURVE_FIGURE).exists() and not (folder / LANDSCAPE_FIGURE).exists()
