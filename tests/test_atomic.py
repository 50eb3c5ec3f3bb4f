"""Files and folders are whole or absent at every moment, with one writer at a time and nothing left over."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autofusion_jax.atomic import LOGGER, locked, new_file, new_folder, standing, write_text

KILLED_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from autofusion_jax.atomic import new_folder, standing, write_text

def write(text):
    if kind == "file":
        return write_text(Path("target"), text)
    with new_folder("target") as part:
        (part / "sub").mkdir()
        (part / "sub" / "text").write_text(text)
        (part / "text").write_text(text)

def read():
    found = standing("target")
    files = [found / "text", found / "sub" / "text"] if found.is_dir() else [found]
    return {file.read_text() for file in files} if found.exists() else {"nothing"}

def die_at(step):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in ("open", "shutil.rmtree") or event.startswith(("os.", "fcntl.")):
            if count == step:
                os._exit(9)
            count += 1
    sys.addaudithook(hook)

kind, over, step, leftovers, seen = sys.argv[1], sys.argv[2] == "over", 0, 0, set()
while True:
    os.mkdir(f"step{step}")
    os.chdir(f"step{step}")
    if over:
        write("first")
    if (child := os.fork()) == 0:
        die_at(step)
        write("second")
        os._exit(0)
    killed = os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9
    assert read() in [{"first"} if over else {"nothing"}, {"second"}], (step, read())
    seen |= read()
    leftovers += len(set(os.listdir(".")) - {"target"}) > 0
    write("third")
    assert read() == {"third"} and os.listdir(".") == ["target"], (step, os.listdir("."))
    os.chdir("..")
    step += 1
    if not killed:
        break
print(step, leftovers, *sorted(seen))
"""
"""Kills a writer before its step 0, 1, ... on the file system; looks at what is there; then writes again."""

HOLDS = """
import sys, time
from autofusion_jax.atomic import new_file
with new_file("target") as part:
    part.write_text("theirs")
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("over", ["over", "new"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_at_every_step(tmp_path, kind, over):
    """What was there stays or the new one is there, at every moment; the next writer sweeps."""
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, kind, over]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps, leftovers, *seen = done.stdout.split()
    assert int(steps) > 10 and int(leftovers) > 5
    assert set(seen) == {"second", "first" if over == "over" else "nothing"}


@contextlib.contextmanager
def another_writer(folder):
    """A process that is at work on `target`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDS], cwd=folder, **pipes) as process:
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_waits(tmp_path, caplog):
    with another_writer(tmp_path) as process:
        thread = threading.Thread(target=write_text, args=(tmp_path / "target", "ours"))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not (tmp_path / "target").exists()
        process.communicate("")
        thread.join()
    assert (tmp_path / "target").read_text() == "ours" and os.listdir(tmp_path) == ["target"]
    assert f"waits for process {process.pid}" in caplog.text and LOGGER.name in caplog.text


def test_a_second_process_is_refused(tmp_path):
    with another_writer(tmp_path) as process:
        refused = pytest.raises(BlockingIOError, match=f"process {process.pid} is at work on it: .*target")
        with refused, locked(tmp_path / "target", wait=False):
            pytest.fail("must not begin")
        process.kill()
        process.wait()
        assert sorted(os.listdir(tmp_path)) == [".target.lock", ".target.part"]
        with locked(tmp_path / "target", wait=False):  # a dead owner holds nothing
            pass
    write_text(tmp_path / "target", "ours")
    assert os.listdir(tmp_path) == ["target"]


def test_many_writers_of_one_target(tmp_path):
    """Each of them writes all, one after the other."""

    def write(text):
        with new_folder(tmp_path / "target") as part:
            for name in "abc":
                (part / name).write_text(text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / "target" / name).read_text() for name in "abc"}) == 1
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("opened", [new_file, new_folder])
def test_an_error_leaves_what_was_there(tmp_path, opened):
    target = tmp_path / "above" / "target"
    for there in (False, True):
        with pytest.raises(RuntimeError, match="stopped"), opened(target):
            raise RuntimeError("stopped")
        assert os.listdir(target.parent) == (["target"] if there else [])
        with opened(target) as part:
            (part / "x" if part.is_dir() else part).write_text("x")
    with pytest.raises(FileExistsError, match="there already: .*target"), opened(target, overwrite=False):
        pytest.fail("must not begin")
    other, error = {new_file: (new_folder, NotADirectoryError), new_folder: (new_file, IsADirectoryError)}[
        opened
    ]
    with pytest.raises(error, match="target"), other(target):
        pytest.fail("must not begin")


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o027])
@pytest.mark.parametrize("opened", [new_file, new_folder])
def test_permissions_are_those_of_the_umask_or_of_what_is_replaced(tmp_path, opened, mask):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    most = 0o666 if opened is new_file else 0o777
    before = os.umask(mask)
    try:
        with opened(tmp_path / "target") as part:
            assert mode(part) == most & ~mask
        assert mode(tmp_path / "target") == most & ~mask
        (tmp_path / "target").chmod(0o700)
        os.umask(0)
        with opened(tmp_path / "target") as part:
            assert not mode(part) & 0o077  # private while it is written, too
    finally:
        os.umask(before)
    assert mode(tmp_path / "target") == 0o700


def test_links_are_followed(tmp_path):
    for name, opened in (("file", new_file), ("folder", new_folder)):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / "elsewhere" / name)
        for text in "ab":
            with opened(link) as part:
                (part / "text" if part.is_dir() else part).write_text(text)
        assert link.is_symlink() and (tmp_path / "elsewhere" / name).exists()


def test_names_of_every_length(tmp_path):
    for name in ("n" * 255, "\u00e9" * 127):
        write_text(tmp_path / name, "x")
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_target(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*/target'$"):
        write_text(tmp_path / "target", "x")
    assert os.listdir(tmp_path) == []


def test_a_file_for_a_folder_names_the_target(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"file"):
        write_text(tmp_path / "file" / "target", "x")


def test_a_reader_finds_a_folder_that_was_moved_aside(tmp_path):
    with new_folder(tmp_path / "target"):
        pass
    os.replace(tmp_path / "target", tmp_path / ".target.old")
    assert standing(tmp_path / "target") == Path(tmp_path / ".target.old")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "target", overwrite=False):
        pytest.fail("must not begin")
    assert standing(tmp_path / "target") == tmp_path / "target"


def test_who_holds_a_lock_may_write_and_finds_nothing_left_over(tmp_path):
    """A lock taken for several steps covers the writes within, and ends with the outermost."""
    (tmp_path / ".entry.part").mkdir()
    (tmp_path / ".entry.old").mkdir()
    with locked(tmp_path / "entry"):
        assert {path.name for path in tmp_path.iterdir()} == {
            "entry",
            ".entry.lock",
        }  # what was moved is back
        with new_folder(tmp_path / "entry") as part, locked(tmp_path / "entry"):
            (part / "text").write_text("new")
        assert (tmp_path / ".entry.lock").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
