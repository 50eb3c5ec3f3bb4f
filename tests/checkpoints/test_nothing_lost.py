"""What the library saves: whole at every moment, every changed byte found, private where its folder is."""

import contextlib
import json
import logging
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import CHECKSUM, SINGLE, open_safetensors
from tests.checkpoints.mutations import flips, refusal
from tests.conftest import ORACLES

VIT, VIT_WIDTH = ORACLES / "interop/vit", 16
MOMENTS = 16
"""At which a writer is killed."""

KILLED = """
import os, sys
from tests.checkpoints.test_nothing_lost import write

kind, step = sys.argv[1], int(sys.argv[2])
count = 0

def hook(event, args):
    global count
    writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_WRONLY
    if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
        if any("target" in str(arg) for arg in args):
            if count == step:
                os._exit(9)
            count += 1

write(kind, 2.0, before=lambda: sys.addaudithook(hook))
print(count)
"""
"""Writes, and ends before a step of the file system on the target as if it were killed; prints the steps."""


def write(kind, number, before=lambda: None):
    """Write the target, with a number in it where that is possible."""
    loaded = af.load_pretrained(VIT)
    before()
    if kind == "save":
        af.save("target", {"w": np.full(3, number)})
    elif kind == "merge_files":
        af.merge_files([f"in{number}", f"in{number}"], "target", overwrite=True)
    else:
        with contextlib.suppress(ValueError):  # it is there
            af.save_pretrained("target", loaded)


def value_at(kind):
    """What is read from the target; None if nothing is there."""
    if kind == "save":
        return float(af.load("target").params["w"][0])
    if kind == "merge_files":
        return float(open_safetensors("target").verify().leaves["w"].read()[0])
    return af.load_pretrained("target").config["hidden_size"] if os.path.exists("target") else None


def killed_write(kind, step):
    """Write in a process of its own, killed before a step; the number of steps, if it came to the end."""
    command = [sys.executable, "-c", KILLED, kind, str(step)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["save", "merge_files", "save_pretrained"])
def test_killed_at_many_moments(tmp_path, monkeypatch, kind):
    """The old one or the new one is there, and the next writer leaves nothing else."""
    monkeypatch.chdir(tmp_path)
    for number in (1.0, 2.0):
        save_file({"w": np.full(3, number, np.float32)}, f"in{number}")
    old, new = (None, VIT_WIDTH) if kind == "save_pretrained" else (1.0, 2.0)
    steps, seen = killed_write(kind, -1), set()
    assert steps > 4
    for step in {int(fraction * steps) for fraction in np.linspace(0, 0.999, MOMENTS)}:
        shutil.rmtree("target") if os.path.isdir("target") else os.remove("target")
        if old is not None:
            write(kind, old)
        assert killed_write(kind, step) is None
        found = value_at(kind)
        assert found in (old, new)
        seen.add(found)
        write(kind, 2.0)
        assert value_at(kind) == new
        assert sorted(os.listdir()) == ["in1.0", "in2.0", "target"]
    assert seen == {old, new}


def test_killed_between_the_renames_of_a_checkpoint(tmp_path, monkeypatch):
    """The last moments: the old one was moved aside, and the new one is not in its place."""
    monkeypatch.chdir(tmp_path)
    write("save", 1.0)
    os.replace("target", ".target.old")
    assert value_at("save") == 1
    write("save", 0.0)
    assert value_at("save") == 0 and os.listdir() == ["target"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each kind of file that the library writes: by what reads it."""
    folder = tmp_path_factory.mktemp("saved")
    af.save(folder / "checkpoint", {"w": np.arange(12.0)}, meta={"a": 1})
    af.save_pretrained(folder / "vit", af.load_pretrained(VIT))
    save_file({"w": np.ones((2, 3), np.float32), "n": np.array(3)}, folder / "in", metadata={"format": "pt"})
    af.merge_files([folder / "in", folder / "in"], folder / "merged" / SINGLE)
    return folder


READERS = {
    "checkpoint": af.load,
    "vit": af.load_pretrained,
    "merged": lambda folder: open_safetensors(folder).verify(),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_changed_byte_is_found(saved, kind):
    """In all files; of long ones in all of the header and some of the rest."""
    tried = 0
    for file in sorted(path for path in (saved / kind).rglob("*") if path.is_file()):
        raw = file.read_bytes()
        step = 1 if kind == "merged" else max(1, len(raw) // 25)
        try:
            for damaged in (*flips(raw, range(0, len(raw), step)), raw[:-1], b""):
                file.write_bytes(damaged)
                said = refusal(lambda: READERS[kind](saved / kind), str(saved / kind))
                assert said is not None, f"{file} with a changed byte is taken"
                tried += 1
        finally:
            file.write_bytes(raw)
    assert tried > 50
    READERS[kind](saved / kind)


def test_the_package_reads_files_with_a_checksum(saved):
    assert load_file(saved / "merged" / SINGLE)["w"].tolist() == np.ones((2, 3)).tolist()
    assert open_safetensors(saved / "merged").metadata == {"format": "pt"}


def test_a_copy_of_the_metadata_alone_is_said_to_be_changed(saved, tmp_path):
    """A tool that copies metadata to other tensors: the message says what to take out."""
    metadata = dict.fromkeys(CHECKSUM, "0" * 64)
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "n", metadata=metadata)
    with pytest.raises(
        CheckpointError, match="was changed since .* take autofusion_jax.sha256 and .* out of its"
    ):
        af.merge_files([tmp_path / "n", tmp_path / "n"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_without_a_checksum_are_said_to_have_none(saved, caplog):
    with caplog.at_level(logging.INFO, logger="autofusion_jax"):
        open_safetensors(saved / "in").verify()
        assert f"{saved / 'in'} has no checksum" in caplog.text
        caplog.clear()
        open_safetensors(saved / "merged").verify()
        assert caplog.text == ""


def test_a_config_that_was_changed_on_purpose(saved, tmp_path):
    folder = shutil.copytree(saved / "vit", tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    with pytest.raises(CheckpointError, match=r"config.json was changed .* remove config.json.sha256"):
        af.load_pretrained(folder)
    (folder / "config.json.sha256").unlink()
    assert af.load_pretrained(folder).model.module.epsilon == 1e-6


def test_private_files_stay_private(tmp_path):
    """Where the umask says so, and where what is replaced was."""
    loaded, before = af.load_pretrained(VIT), os.umask(0o077)
    try:
        af.save(tmp_path / "checkpoint", {"w": np.ones(2)})
        af.save_pretrained(tmp_path / "vit", loaded)
        af.merge_files([VIT, VIT], tmp_path / "merged")
        os.umask(0o022)
        af.save(tmp_path / "checkpoint", {"w": np.ones(2)})
        af.merge_files([VIT, VIT], tmp_path / "merged", overwrite=True)
    finally:
        os.umask(before)
    for name in ("checkpoint", "vit", "merged"):
        assert not stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077, name


FULL = """
import resource, signal, sys
import numpy as np
import autofusion_jax as af
loaded = af.load_pretrained(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
for write in (
    lambda: af.save("target", {"w": np.random.default_rng(0).normal(size=9000)}),
    lambda: af.save_pretrained("target", loaded),
    lambda: af.merge_files([sys.argv[1]] * 2, "target"),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


def test_a_disk_that_is_full_is_one_line(tmp_path):
    """A file cannot grow: as on a full disk, each writer says so once, naming what was asked for."""
    command = [sys.executable, "-c", FULL, str(VIT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"[Errno 27] File too large: '{tmp_path.resolve() / 'target'}'"] * 3
    assert done.stderr == "" and os.listdir(tmp_path) == []


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="save: path must be a new folder or a checkpoint"):
        af.save(tmp_path, {"w": np.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    af.save(tmp_path / "empty", {"w": np.ones(2)})


@pytest.mark.slow
def test_a_reader_beside_writers(tmp_path):
    """A checkpoint that is replaced again and again can be read all the time."""
    code = "import numpy as np, autofusion_jax as af"
    code += "\nfor n in range(9): af.save('target', {'w': np.full(300, n)})"
    af.save(tmp_path / "target", {"w": np.full(300, 0)})
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        while process.poll() is None:
            assert len(set(af.load(tmp_path / "target").params["w"].tolist())) == 1
    assert process.returncode == 0 and os.listdir(tmp_path) == ["target"]
