"""Files of runs that are damaged: named in one line, or made again and said."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import figures
from autofusion_jax.checkpoints.orbax_io import load, save
from autofusion_jax.evaluation.results import Result
from data.files import DamagedFile
from pipeline import networks
from pipeline.networks import FINAL, Training, find_or_train
from pipeline.records import CONFIG_FILE, RESULTS_FILE, read_record, read_rows, write_record, write_rows
from tests.experiments.report_runs import write_all
from training.loop import TrainOptions
from webreport.collect import collect
from webreport.page import write_page

RESULTS = [
    Result("digits", "average", None, pair, 0, pair, {"joint": 50.0 + pair}, 0, 1.5) for pair in (0, 1)
]
JUNK = [b"", b"{", b"null", b"[]", b"[" * 100_000, b"\xff\xfe\x00", b'{"a": 1}']


@pytest.fixture
def folder(tmp_path):
    write_record(tmp_path / CONFIG_FILE, {"name": "digits", "seed": 3})
    write_rows(tmp_path, RESULTS)
    return tmp_path


def test_what_is_written_is_read(folder):
    write_rows(folder, RESULTS[:1])
    assert read_rows(folder) == RESULTS[:1] and read_record(folder / CONFIG_FILE)["seed"] == 3


@pytest.mark.parametrize("junk", [*JUNK, b"changed"])
@pytest.mark.parametrize("name", [CONFIG_FILE, RESULTS_FILE])
def test_damaged_results_and_settings_are_named(folder, name, junk):
    path = folder / name
    changed = path.read_bytes().replace(b'"seed": 3', b'"seed": 4').replace(b"50.0", b"60.0")
    path.write_bytes(changed if junk == b"changed" else junk)
    if (name, junk) == (CONFIG_FILE, JUNK[-1]):
        return  # settings that say nothing of results: those of another, older program
    with pytest.raises(DamagedFile, match=name) as caught:
        read_rows(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": "x"}, {"metrics": {"joint": "x"}}, {"pair": 1.5}, {"seed": None}, {"method": 3},
        {"found": []}, {"more": 1},
    ],
)  # fmt: skip
def test_lines_that_are_no_results_are_named(folder, change):
    """Also where no checksum says so."""
    write_record(folder / CONFIG_FILE, {})
    lines = (folder / RESULTS_FILE).read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    (folder / RESULTS_FILE).write_text("\n".join(lines))
    with pytest.raises(DamagedFile, match=r"results.jsonl, line 2: "):
        read_rows(folder)


def test_stopped_between_results_and_settings_nothing_is_damaged(folder):
    """The settings know the new results before these are in their place."""
    before = (folder / RESULTS_FILE).read_bytes()
    write_rows(folder, RESULTS[:1])
    assert read_rows(folder) == RESULTS[:1]
    (folder / RESULTS_FILE).write_bytes(before)
    assert read_rows(folder) == RESULTS


def files(root):
    kinds = (".json", ".jsonl", ".npz")
    return sorted(path for path in root.rglob("*") if path.is_file() and path.suffix in kinds)


@pytest.mark.parametrize("number", range(12))
def test_the_report_names_what_is_damaged(tmp_path, number):
    """Whatever one file of the runs holds, it is shown or named; nothing else is raised."""
    root = write_all(tmp_path / "runs")
    every = files(root)
    path = every[number * len(every) // 12]
    named = 0
    for junk in JUNK:
        path.write_bytes(junk)
        try:
            write_page(*collect(root), tmp_path / "out")
        except (ValueError, FileNotFoundError) as error:
            named += str(root) in str(error) and "\n" not in str(error)
        else:
            named += 1
    assert named == len(JUNK), path


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=400)


def network(folder, console, calls):
    def prepare():
        calls.append(1)
        x = np.ones((8, 3), np.float32)
        start = {"w": np.zeros((3, 2), np.float32)}
        options = TrainOptions(epochs=4, batch_size=4, segment=2)
        return Training(lambda p, x: x @ p["w"], start, x, np.zeros(8, np.int32), options, 0)

    return find_or_train(folder / "model_a", "model_a", prepare, {}, console)[0]


def damage(folder):
    (folder / "meta.json").write_text("{}")


def test_a_damaged_network_is_trained_again_and_said(tmp_path, console):
    calls = []
    first = network(tmp_path, console, calls)
    damage(tmp_path / "model_a" / FINAL)
    again = network(tmp_path, console, calls)
    network(tmp_path, console, calls)
    assert len(calls) == 2 and np.array_equal(first["w"], again["w"])
    assert console.file.getvalue().count("is damaged and is made again") == 1


def test_a_damaged_step_gives_way_to_the_one_before(tmp_path, console, monkeypatch):
    """Stopped at the end of a training whose last saved step is damaged."""

    def stopping(path, *args, **options):
        if path.name == FINAL:
            raise KeyboardInterrupt
        save(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(networks, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            network(tmp_path, console, [])
    steps = sorted((tmp_path / "model_a").glob("step_*"))
    damage(steps[-1])
    found = network(tmp_path, console, [])
    expected = network(tmp_path / "other", console, [])
    printed = console.file.getvalue()
    assert np.array_equal(found["w"], expected["w"]) and f"{steps[-1]} is damaged" in printed
    assert f"goes on at step {int(steps[-2].name[5:])}" in printed
    assert [path.name for path in (tmp_path / "model_a").iterdir()] == [FINAL]
    assert load(tmp_path / "model_a" / FINAL).meta["seconds"] > 0


@pytest.mark.parametrize("content", [None, b"", b"other"])
@pytest.mark.parametrize("name", ["a.png", figures.FIGURE_FILE])
def test_a_damaged_figure_is_drawn_again_and_said(tmp_path, console, name, content):
    Image.new("L", (6, 6)).save(tmp_path / "a.png")
    checksums = {"a.png": figures.file_checksum(tmp_path / "a.png")}
    write_record(tmp_path / figures.FIGURE_FILE, {"settings": {"n": 1}, "panels": [], "files": checksums})
    assert figures._stored(tmp_path, console)["settings"] == {"n": 1}
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert figures._stored(tmp_path, console) == {}
    said = "the figure is made again" in console.file.getvalue()
    assert said or (name, content) == (figures.FIGURE_FILE, None)  # there is none
