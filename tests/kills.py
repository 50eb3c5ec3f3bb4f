"""Kills at random moments: a command that is killed and run again ends where an undisturbed one does.

`survive` runs a script as `python SCRIPT ARGUMENTS...` in a folder of its own, kills it with SIGKILL a few
times, lets it finish, and compares what it left with what an undisturbed run leaves. A kill comes after a
random time, or at a random change of a file below the folder, which is where writers are weak:

    python tests/kills.py NUMBER SCRIPT ARGUMENTS...

runs a script that kills itself at its change NUMBER; with 0 it is not killed, and the number of changes is
written to `$KILLS_COUNT`.
"""

import atexit
import dataclasses
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR
OTHERS = ("arrays",)
"""Folders whose files have names that Orbax draws at random."""
ROUNDS = 3
"""How often a run is killed at most before it is left alone."""


@dataclasses.dataclass
class Tally:
    """What kills did: how many there were, in how many runs that were finished, and what was wrong after."""

    kills: int = 0
    finished: int = 0
    unequal: list[str] = dataclasses.field(default_factory=list)
    leftovers: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills over {self.finished} finished runs: {len(self.unequal)} unequal, "
            f"{len(self.leftovers)} leftovers"
        )


def survive(
    script: Path,
    arguments: Sequence[str],
    make_folder: Callable[[], Path],
    check: Callable[[Path], Any],
    *,
    kills: int,
    seed: int,
    timeout: float = 600,
) -> Tally:
    """Kill a command `kills` times in all, over as many runs as that takes.

    Args:
        script: what is run.
        arguments: of the script.
        make_folder: makes a new folder, with what the script needs; the script runs in it.
        check: reads what a finished run left in its folder, as something that compares equal to what another
            such run left.
        kills: how many processes are to die.
        seed: decides the moments.
        timeout: seconds that a run may take.
    """
    draw, tally, calm = random.Random(seed), Tally(), make_folder()
    count = calm.with_name(f"{calm.name}.count")
    began = time.monotonic()
    _finish(script, arguments, calm, timeout, count)
    seconds, changes = time.monotonic() - began, int(count.read_text())
    expected, names = check(calm), tree(calm)
    while tally.kills < kills:
        folder = make_folder()
        for _ in range(draw.randint(1, ROUNDS)):
            if draw.random() < 0.5:
                killed = _run(script, arguments, folder, draw.uniform(0, seconds), at=0)
            else:
                killed = _run(script, arguments, folder, timeout, at=draw.randint(1, changes))
            tally.kills += killed
        _finish(script, arguments, folder, timeout, count)
        tally.finished += 1
        found = check(folder)
        if found != expected:
            tally.unequal.append(f"{folder}: {found} in place of {expected}")
        tally.leftovers += sorted(f"{folder}: {name}" for name in tree(folder) - names)
    return tally


def tree(folder: Path) -> set[str]:
    """The files and folders below a folder, but those of `OTHERS`."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {path.as_posix() for path in found if not set(OTHERS) & set(path.parts[:-1])}


def _command(at: int, script: Path, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, __file__, str(at), str(script), *arguments]


def _run(script: Path, arguments: Sequence[str], folder: Path, seconds: float, *, at: int) -> bool:
    """Whether a process was killed, after some seconds or at a change, before it had finished."""
    with (folder.with_name(f"{folder.name}.log")).open("ab") as log:
        process = subprocess.Popen(_command(at, script, arguments), cwd=folder, stdout=log, stderr=log)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.returncode in (0, -signal.SIGKILL), Path(log.name).read_text()[-3000:]
    return process.returncode != 0


def _finish(script: Path, arguments: Sequence[str], folder: Path, timeout: float, count: Path) -> None:
    done = subprocess.run(
        _command(0, script, arguments), cwd=folder, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "KILLS_COUNT": str(count)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def _die_at(number: int, folder: str) -> None:
    """Count the changes of files below a folder, and kill this process at one of them."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            changes = isinstance(arguments[2], int) and bool(arguments[2] & WRITING)
        else:
            changes = event in WRITES
        if not changes or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if os.path.abspath(os.fsdecode(arguments[0])).startswith(folder + os.sep):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    if not number:
        atexit.register(lambda: Path(os.environ["KILLS_COUNT"]).write_text(str(seen)))
    sys.addaudithook(hook)


if __name__ == "__main__":
    number, script = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    if number or "KILLS_COUNT" in os.environ:
        _die_at(number, os.getcwd())
    runpy.run_path(script, run_name="__main__")
