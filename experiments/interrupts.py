"""Ctrl-C and SIGTERM, from the first line of a script on: one line, and the status that shells expect.

Imported first, before the packages that take seconds. Until `begin` is called nothing is being written, and
a signal ends the process at once. From then on it raises `Interrupted`, so that what is half-written is
removed. Python runs no handler while XLA computes, and drops what is raised in callbacks of the garbage
collector: a process that is still there after `PATIENCE` seconds is ended, and the next run sweeps.
"""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

PATIENCE = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LINE = "interrupted; the same command goes on where it stopped"


class Interrupted(KeyboardInterrupt):
    """A signal came; its number is the argument."""


_begun = threading.Event()
_received: list[int] = []


def begin() -> None:
    """From now on signals raise `Interrupted`."""
    _begun.set()


def exit_if_received() -> None:
    """End the process if a signal came, even where what it raised was swallowed on its way."""
    if _received:
        _end(_received[0])


def _end(number: int) -> None:
    """Not in order: threads of other packages would tell at length that they were interrupted."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may have come in the middle of a flush
        sys.stdout.flush()
    os.write(2, f"{LINE}\n".encode())
    os._exit(128 + number)


def _handle(number: int, _: FrameType | None) -> None:
    if not _begun.is_set():
        _end(number)
    if not _received:  # what is cleaned up after the first is not to be cut short by a second
        _received.append(number)
        raise Interrupted(number)


def _unraisable(unraisable: Any) -> None:
    """Python tells at length of what it drops; of a signal the one line is told when the process ends."""
    if not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)


def _watch(descriptor: int) -> None:
    """Wait for a signal's number on a pipe, then for the process to end by itself, then end it."""
    number = os.read(descriptor, 1)[0]
    while number not in SIGNALS:
        number = os.read(descriptor, 1)[0]
    threading.Event().wait(PATIENCE)
    _end(number)


def _install() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background jobs of a shell
            signal.signal(number, _handle)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:  # a script, not its tests
    _install()
