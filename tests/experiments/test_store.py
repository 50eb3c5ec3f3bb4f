"""The store of rows: made once, found again, whole or not at all; what is damaged is made again and said."""

import io
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from configs import get_config
from pipeline import engine
from pipeline.endpoints import open_run
from pipeline.engine import load_networks, results_of, row_key, run_row
from pipeline.rows import Row, make_networks
from pipeline.store import ARRAYS_FILE, ENTRY_FILE, Store


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=300)


def printed(console):
    return console.file.getvalue()


def test_only_whole_entries_are_kept(tmp_path, console):
    store, calls = Store(tmp_path, console), []

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.arrays("part", {"a": 1}, fail)
    assert not list(tmp_path.iterdir())

    def arrays():
        calls.append(1)
        return {"deep/path": np.arange(3)}

    for _ in range(2):
        found = store.arrays("part", {"a": 1}, arrays)
        np.testing.assert_array_equal(found["deep/path"], [0, 1, 2])
    store.arrays("part", {"a": 2}, arrays)
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2 and not printed(console)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def change(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("name", [ENTRY_FILE, ARRAYS_FILE])
@pytest.mark.parametrize("damage", [empty, cut, change, lambda path: path.unlink()])
def test_a_damaged_entry_is_made_again_and_said(tmp_path, console, name, damage):
    store, calls = Store(tmp_path, console), []

    def arrays():
        calls.append(1)
        return {"x": np.arange(3)}

    store.arrays("part", {"a": 1}, arrays)
    (entry,) = tmp_path.iterdir()
    damage(entry / name)
    for _ in range(2):
        np.testing.assert_array_equal(store.arrays("part", {"a": 1}, arrays)["x"], [0, 1, 2])
    assert len(calls) == 2
    assert printed(console).count(f"{entry} is damaged ({name}") == 1


def test_a_changed_number_is_made_again_and_said(tmp_path, console):
    """Also where the record is good JSON: no digit of it can be changed unseen."""
    store, calls = Store(tmp_path, console), []

    def make(work):
        calls.append(1)
        return {"joint": 85.25}

    store.find_or_make("row", {"a": 1}, make)
    (entry,) = tmp_path.iterdir()
    text = (entry / ENTRY_FILE).read_text()
    for changed in (text.replace("85.25", "86.25"), "[]", "null", "{}", "[" * 100_000):
        (entry / ENTRY_FILE).write_text(changed)
        assert store.find_or_make("row", {"a": 1}, make).content == {"joint": 85.25}
    assert len(calls) == 6 and printed(console).count("made again") == 5


def test_two_threads_make_an_entry_once(tmp_path, console):
    """Who comes second waits for the first, and finds what it has made."""
    store, calls, inside = Store(tmp_path, console), [], threading.Event()

    def make(work):
        calls.append(1)
        inside.set()
        time.sleep(0.3)
        return {}

    first = threading.Thread(target=store.find_or_make, args=("row", {"a": 1}, make))
    first.start()
    inside.wait()
    assert not store.find_or_make("row", {"a": 1}, make).is_new and len(calls) == 1
    first.join()
    assert [path.name[:4] for path in tmp_path.iterdir()] == ["row_"]


def test_leftovers_of_killed_processes_are_swept(tmp_path, console):
    store = Store(tmp_path, console)
    path = store.find_or_make("row", {"a": 1}, lambda work: {}).folder
    for kind in ("part", "old"):
        (tmp_path / f".{path.name}.{kind}").mkdir()
    (tmp_path / f".{path.name}.lock").touch()
    assert not store.find_or_make("row", {"a": 1}, lambda work: {}).is_new
    assert list(tmp_path.iterdir()) == [path]


def pair_of(runs_dir, console, **changes):
    """A pair of tiny networks on digits."""
    config = get_config("digits_mlp")
    config.runs_dir, config.train.epochs, config.model.widths = str(runs_dir), 1, (8,)
    for name, value in changes.items():
        setattr(config, name, value)
    return open_run(config, console).pair(0)


AVERAGE = Row("average", "Average", "interpolation")


@pytest.mark.slow
def test_a_row_is_made_once_whatever_it_is_called(tmp_path, console, monkeypatch):
    made = []
    monkeypatch.setattr(engine, "make_networks", lambda *args: made.append(1) or make_networks(*args))
    pair = pair_of(tmp_path, console)
    stored = run_row(AVERAGE, pair)
    (result,) = results_of(stored, AVERAGE, pair, "one", beside=tmp_path)
    (network,) = load_networks(stored, pair)
    assert pair.evaluate(network) == result.metrics and (tmp_path / result.path / "manifest.json").is_file()

    again = pair_of(tmp_path, console, name="another", pairs=7)
    other = Row("average", "Mean of both", "interpolation", {"gamma": 0.5})
    assert not run_row(other, again).is_new and len(made) == 1
    assert run_row(Row("average", "", "interpolation", {"gamma": 0.4}), again).is_new and len(made) == 2

    (stored.folder / "repeat0" / "meta.json").write_text("{}")
    assert run_row(AVERAGE, pair).is_new and len(made) == 3
    assert f"{stored.folder} is damaged (repeat0/meta.json was changed)" in printed(console)


@pytest.mark.slow
def test_what_a_row_depends_on(tmp_path, console):
    pair = pair_of(tmp_path, console)
    key = row_key(AVERAGE, pair)
    assert key == row_key(AVERAGE, pair_of(tmp_path / "elsewhere", console, out_dir="there"))
    assert key != row_key(AVERAGE, pair_of(tmp_path, console, seed=1))
    for option in ({"align": "weight_matching"}, {"correction": "repair"}, {"search": {"gamma": (0.4, 0.5)}},
                   {"options": {"gamma": 0.3}}, {"from_start": True}, {"labelled": 9}):  # fmt: skip
        assert key != row_key(Row("average", "", **{"method": "interpolation", **option}), pair), option
    references = [row_key(Row(name, ""), pair) for name in ("model_a", "model_b", "teacher_em")]
    assert references[0] != references[1] != references[2]
