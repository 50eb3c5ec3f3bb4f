"""Average, task arithmetic 0.3 and TIES 20 % of random networks, side by side with FusionBench and mergekit.

    python experiments/bench/catalogue.py --peer_python=PATH [--size=resnet50] [--networks=8] [--out=DIR]

All in one run: every side and method in a process of its own, one after another; the networks lie in
safetensors files that are in the page cache. In memory: `merge_many` against FusionBench's algorithms on
modules, and copying the same bytes. From files to a file: `merge_files` against `mergekit-pytorch`, and
reading all files and writing one. Then 64 values of lambda on a small network, merged and evaluated: in
one vmapped call, in 64, and by 64 calls of `merge_many`. Seconds are those of the first call
(compilation included) and of the fastest later one; CPU seconds are beside them, for busy machines.
Peak memory is resident memory of the process, imports and networks included.

PATH is a Python that has the peers: `python -m venv PEERS`, then `pip install fusion-bench==0.2.33
mergekit==0.1.5` in it (the `bench` extra has the same), with torch for the CPU. Without it only our sides are
measured. FusionBench's TIES takes about 70 times the memory of one network: of `--size=vit_b_32` 24
GiB; `--skip=fusionbench:ties` leaves it out.
"""

import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags
from catalogue_sides import SHAPES
from rich.console import Console
from rich.table import Table

_SIZE = flags.DEFINE_enum("size", "resnet50", list(SHAPES), "Whose shapes the networks have.")
_NETWORKS = flags.DEFINE_integer("networks", 8, "How many networks are merged.")
_PEERS = flags.DEFINE_string("peer_python", None, "A Python that has FusionBench and mergekit.")
_SKIP = flags.DEFINE_list("skip", [], "SIDE:METHOD to leave out.")
_OUT = flags.DEFINE_string("out", "docs/results/catalogue_bench", "Folder for the numbers, JSON and CSV.")

METHODS = ("average", "task_arithmetic", "ties")
PLACES = {
    "memory": ("ours_memory", "fusionbench", "plain_memory"),
    "files": ("ours_files", "mergekit", "plain_files"),
}
PEERS = {"fusionbench", "mergekit"}
SWEEPS = {"vmap": "one vmapped call", "loop": "64 calls", "merge_many": "64 of merge_many"}


def run_side(side: str, method: str, folder: Path) -> dict[str, float] | None:
    """Run one side and read its line of numbers; None, with a message, if it was left out or failed."""
    python = _PEERS.value if side in PEERS else sys.executable
    if python is None or f"{side}:{method}" in _SKIP.value:
        return None
    script = Path(__file__).with_name("catalogue_sides.py")
    environment = {k: v for k, v in os.environ.items() if side not in PEERS or k != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(script), side, method, str(folder)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        Console(stderr=True).print(f"{side} {method} failed: {reason}", markup=False)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_all(folder: Path, console: Console) -> list[dict]:
    """One row for each place, method and side."""
    rows = []
    for place, sides in PLACES.items():
        for method in METHODS:
            for side in sides:
                with console.status(f"{place}: {method}, {side}"):
                    found = run_side(side, method, folder)
                if found:
                    rows.append({"place": place, "method": method, "side": side, **found})
    for way in SWEEPS:
        found = run_side("sweep", way, folder)
        if found:
            rows.append({"place": "sweep", "method": way, "side": "ours", **found})
    return rows


def show(rows: list[dict], console: Console) -> None:
    """Our seconds and memory beside the peer's, and the plain copy's."""
    by_key = {(row["place"], row["side"], row["method"]): row for row in rows}
    table = Table(
        "", "method", "first s", "s", "CPU s", "GiB", "peer", "s", "CPU s", "GiB", "times faster",
        "of its memory", "plain s", "times plain",
    )  # fmt: skip
    for place, (ours, peer, plain) in PLACES.items():
        for method in METHODS:
            own, other, copy = (by_key.get((place, side, method)) for side in (ours, peer, plain))
            if own is None:
                continue
            cells = [f"{own['first']:.2f}", *numbers(own), peer]
            cells += ["", "", "", "", ""] if other is None else [
                *numbers(other),
                f"{other['seconds'] / own['seconds']:.1f}",
                f"{own['peak'] / other['peak']:.0%}",
            ]  # fmt: skip
            cells += ["", ""] if copy is None else [
                f"{copy['seconds']:.3f}", f"{own['seconds'] / copy['seconds']:.2f}",
            ]  # fmt: skip
            table.add_row(place, method, *cells, end_section=method == METHODS[-1])
    console.print(table)
    for way, name in SWEEPS.items():
        row = by_key.get(("sweep", "ours", way))
        if row:
            console.print(
                f"64 values of lambda, {name}: {1e3 * row['seconds']:.1f} ms, first {row['first']:.2f} s"
            )


def numbers(row: dict) -> list[str]:
    return [f"{row['seconds']:.3f}", f"{row['cpu']:.2f}", f"{row['peak']:.2f}"]


def write(rows: list[dict], entries: int) -> None:
    """The rows as JSON, with what they were measured on, and as CSV."""
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "size": _SIZE.value, "entries": entries, "networks": _NETWORKS.value,
        "cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()[0],
    }  # fmt: skip
    text = json.dumps({**settings, "rows": rows}, indent=2)
    (folder / f"{_SIZE.value}.json").write_text(text + "\n")
    with open(folder / f"{_SIZE.value}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main(_: list[str]) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = run_side("make", f"{_SIZE.value}:{_NETWORKS.value}", folder)
        if made is None:
            sys.exit(1)
        entries = int(made["entries"])
        console.print(
            f"{_NETWORKS.value} networks of {entries / 1e6:.1f} million float32 entries; "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )
        rows = measure_all(folder, console)
    show(rows, console)
    write(rows, entries)


if __name__ == "__main__":
    app.run(main)
