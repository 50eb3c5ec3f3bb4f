"""Find the results under a folder and read them; no network is run, nothing is computed again."""

import csv
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autofusion_jax.evaluation.results import Result
from autofusion_jax.validation import require
from data.files import memory_bytes, read_json, read_npz, reading
from pipeline.records import CONFIG_FILE, RESULTS_FILE, read_record, read_rows
from reporting.published import PUBLISHED

FIGURE_FILE, CSV_FILE = "figure.json", "results.csv"
WRITTEN = "as merge.py and reproduce.py write it"
TEXT_FILES = ("results.md", "table.md")
SKIPPED = {"checkpoints", "rows"}
DRAWN_FILE = "drawn.npz"

Key = tuple[str, str | None]
"""Method and variant."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A line of a reproduced table's CSV: its title there, and each metric that the table shows.

    Attributes:
        title: what the table calls it.
        values: metric -> the published accuracy in percent, or None.
    """

    title: str
    values: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a merge run, of a reproduced table or of one of its panels.

    Attributes:
        folder: where it is.
        table: name of the reproduced table; None for a run of `merge.py`.
        panel: name of the panel, in a table of several.
        config: the resolved settings.
        rows: row name -> its method and options; empty for a run of `merge.py`.
        records: one for every evaluated network.
        text: its Markdown file without the table; empty where it has none.
        lines: its CSV file, line by line; empty where it has none.
        command: the command that it says made it, if it does.
    """

    folder: Path
    table: str | None
    panel: str | None
    config: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    records: tuple[Result, ...]
    text: str
    lines: tuple[Published, ...]
    command: str | None

    @property
    def name(self) -> str:
        """The table's or config's name."""
        names = [name for name in (self.table, self.panel) if name]
        return "/".join(names) or str(self.config.get("name", self.folder.name))

    @property
    def home(self) -> Path:
        """The folder of the whole table, or of the run."""
        return self.folder.parent if self.panel else self.folder


@dataclasses.dataclass(frozen=True)
class FigureRun:
    """The folder of a reproduced figure: `figure.json` and the images that it names."""

    folder: Path
    data: Mapping[str, Any]


def collect(runs_dir: Path) -> tuple[list[RunFolder], list[FigureRun]]:
    """Read all results under a folder, in the natural order of their paths, merges before tables.

    Args:
        runs_dir: a folder of runs, or that of one run.

    Raises:
        FileNotFoundError: there is no such folder, or it has no results.
        ValueError: a file there is not what these programs write; names it.
    """
    runs, figures = [], []
    for folder in _folders(runs_dir):
        if (folder / RESULTS_FILE).is_file():
            with reading(folder, WRITTEN):
                runs.append(_read_run(folder))
        if (folder / FIGURE_FILE).is_file():
            with reading(folder / FIGURE_FILE, WRITTEN):
                figures.append(_read_figure(folder / FIGURE_FILE))
    runs = [run for run in runs if run.records]
    if not runs and not figures:
        raise FileNotFoundError(
            f"report: --runs must be a folder with results ({RESULTS_FILE} or {FIGURE_FILE} at any depth); "
            f"got {runs_dir}. Run experiments/merge.py or experiments/reproduce.py first."
        )
    return sorted(runs, key=lambda run: run.table is not None), figures


def _folders(runs_dir: Path) -> list[Path]:
    found = []
    for path, names, _ in os.walk(runs_dir):
        names[:] = [name for name in names if name not in SKIPPED and not name.startswith(".")]
        found.append(Path(path))
    return sorted(found, key=lambda folder: [_natural(part) for part in folder.parts])


def _natural(text: str) -> list[tuple[int, int | str]]:
    """A sorting key by which `table_2` comes before `table_10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def _read_run(folder: Path) -> RunFolder:
    config_file = folder / CONFIG_FILE
    stored = read_record(config_file) if config_file.is_file() else {}
    table = stored.get("table")
    return RunFolder(
        folder, table, stored.get("panel"), stored.get("config", {}) if table else stored,
        stored.get("rows", {}) if table else {}, tuple(read_rows(folder)), read_prose(folder),
        _read_lines(folder / CSV_FILE), stored.get("command"),
    )  # fmt: skip


def read_prose(folder: Path) -> str:
    """The Markdown file of a folder without its tables; empty where it has none."""
    paths = [folder / name for name in TEXT_FILES if (folder / name).is_file()]
    lines = paths[0].read_text(encoding="utf-8").splitlines() if paths else []
    return "\n".join(line for line in lines if not line.startswith("|")).strip()


def _read_lines(path: Path) -> tuple[Published, ...]:
    """The lines of a table that were run, in its order."""
    if not path.is_file():
        return ()
    reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    suffix = f"_{PUBLISHED}"
    metrics = [name.removesuffix(suffix) for name in reader.fieldnames or () if name.endswith(suffix)]
    return tuple(
        Published(line["method"], {m: float(line[m + suffix]) if line[m + suffix] else None for m in metrics})
        for line in reader
        if line["pairs"] != "0"
    )


def _read_figure(path: Path) -> FigureRun:
    data = read_record(path)
    for panel in data["panels"]:
        name = panel["file"]
        inside = Path(name).name == name and (path.parent / name).is_file()
        require(inside, "report", f'{path}: "file"', "an image beside it", name)
    return FigureRun(path.parent, data)


def read_curves(run: RunFolder) -> dict[Key, dict[str, np.ndarray]]:
    """Accuracies in percent over gamma from 0 to 1, by method and variant, then by metric: `[points]`."""
    curves: dict[Key, dict[str, np.ndarray]] = {}
    for key, metric, values in _arrays(run, "curve"):
        curves.setdefault(key, {})[metric] = values
    return curves


def read_matrices(run: RunFolder) -> Iterator[tuple[Key, str, np.ndarray]]:
    """Permutation matrices `[n, n]`, rows model A's units: method and variant, group, values."""
    return (item for item in _arrays(run, "matrix") if item[2].ndim == 2)


def _arrays(run: RunFolder, wanted: str) -> Iterator[tuple[Key, str, np.ndarray]]:
    path = run.folder / DRAWN_FILE
    if not path.is_file():
        return
    for name, values in read_npz(path, most=memory_bytes()).items():
        with reading(path, "arrays METHOD/KIND/VARIANT/PART"):
            method, kind, variant, part = name.split("/", 3)
        if kind == wanted:
            yield (method, variant or None), part, values


def read_histories(run: RunFolder) -> dict[str, dict[str, np.ndarray]]:
    """What learned merges of the first pair recorded: method -> quantity -> `[repeats, steps]`."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    seen = set()
    for record in run.records:
        if record.pair or not record.path or (record.method, record.repeat) in seen:
            continue  # the variants of one merge share their history
        meta = run.folder / record.path / "meta.json"
        if not meta.is_file():
            continue
        with reading(meta, WRITTEN):
            history = read_json(meta).get("history") or {}
            curves = {name: np.asarray(values, float).tolist() for name, values in history.items()}
        for quantity, values in curves.items():
            if len(np.shape(values)) == 1 and len(values) > 1:
                found.setdefault(record.method, {}).setdefault(quantity, []).append(values)
                seen.add((record.method, record.repeat))
    return {
        method: {name: np.asarray(lines) for name, lines in by_name.items() if len(set(map(len, lines))) == 1}
        for method, by_name in found.items()
    }
