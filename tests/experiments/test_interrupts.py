"""Ctrl-C and SIGTERM: one line and the shell's status, whenever they come and whatever swallows them."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LINE = "interrupted; the same command goes on where it stopped\n"
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.{before})  # a shell's background jobs ignore it
sys.argv, sys.path[0] = [{script!r}], {folder!r}
import interrupts
interrupts.PATIENCE = 1.0
{body}
"""
SWALLOWED = """
interrupts.begin()
try:
    print("ready", flush=True)
    time.sleep(60)
except BaseException:
    pass
interrupts.exit_if_received()
"""
IN_A_DESTRUCTOR = """
class Noisy:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
interrupts.begin()
Noisy()
time.sleep(60)
"""
STARTING = """
print("ready", flush=True)
time.sleep(60)
"""


def program(body, before="SIG_DFL"):
    places = {"script": str(EXPERIMENTS / "merge.py"), "folder": str(EXPERIMENTS)}
    return [sys.executable, "-c", PROGRAM.format(body=body, before=before, **places)]


@pytest.mark.parametrize("body", [STARTING, SWALLOWED, IN_A_DESTRUCTOR])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_signal_is_swallowed(body, number):
    process = subprocess.Popen(program(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + number, LINE)


def test_a_job_that_ignores_signals_goes_on_doing_so():
    body = "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    assert subprocess.run(program(body, "SIG_IGN")).returncode == 0


@pytest.mark.slow
def test_during_start_up(tmp_path):
    """Python itself takes the first tenth of a second, and has words of its own for that."""
    draw, command = random.Random(0), [sys.executable, str(EXPERIMENTS / "merge.py"), "--config=digits_mlp"]
    for _ in range(8):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        time.sleep(draw.uniform(0.5, 5))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        # threads of other packages may tell that their event loop is closed
        assert process.returncode == 130 and errors.endswith(LINE)
