"""The folder of a panel: under which settings its results were made, and what is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autofusion_jax.evaluation.results import Result
from configs.schema import identity
from data.files import DamagedFile, reading
from pipeline.endpoints import Run
from pipeline.records import CONFIG_FILE, RESULTS_FILE, RESULTS_SEAL, read_record, read_rows, write_record
from pipeline.rows import plain, row_identity
from tables.schema import CURVE_FIGURE, LANDSCAPE_FIGURE, Panel, Table, TableConfig
from tables.settings import restore

PICTURED = ("landscape_points", "landscape_images", "evaluate")
"""Settings that no number depends on, only the pictures."""


class StoredPanel(NamedTuple):
    """What a panel's folder holds.

    Attributes:
        panel: the panel.
        config: the settings it was run with.
        notes: what every report made from it must say.
        records: its results, in the order of the panel, pair by pair.
    """

    panel: Panel
    config: TableConfig
    notes: tuple[str, ...]
    records: list[Result]


def panel_folder(panel: Panel, config: TableConfig) -> Path:
    """Where the results of a panel lie."""
    return Path(config.out_dir) / panel.name


def read_panel(panel: Panel, out_dir: str) -> StoredPanel | None:
    """Read what is stored of a panel under the folder of its table; None if there are no results."""
    config = panel.get_config()
    config.out_dir = out_dir
    folder = panel_folder(panel, config)
    records = stored_results(folder)
    if not records:
        return None
    stored = read_record(folder / CONFIG_FILE)
    with reading(folder / CONFIG_FILE, "the settings of a panel"):
        restore(config, stored["config"])
        return StoredPanel(panel, config, tuple(stored["notes"]), in_order(panel, config, records))


def stored_results(folder: Path) -> list[Result]:
    """The results in a folder, as they were written; none if there is no file.

    Raises:
        DamagedFile: they are damaged, or nothing says under which settings they were made.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        return []
    if not (folder / CONFIG_FILE).is_file():
        raise DamagedFile(f"{path} lacks its settings, {CONFIG_FILE}.")
    return read_rows(folder)


def in_order(panel: Panel, config: TableConfig, records: list[Result]) -> list[Result]:
    """The records of the rows that a panel has today, and of the pairs asked for, in its order."""
    order = [entry.name for entry in panel.rows]
    wanted = [record for record in records if record.method in order and record.pair < config.pairs]
    return sorted(wanted, key=lambda record: (order.index(record.method), record.pair))


def panel_identity(config: TableConfig) -> dict[str, Any]:
    """What makes two runs of a panel the same: its settings but those that its rows stand for."""
    fields = identity(config)
    for name in ("methods", "references"):
        fields["merge"].pop(name)
    return plain(fields)


def claim(folder: Path, table: Table, panel: Panel, config: TableConfig, run: Run) -> list[Result]:
    """Write the resolved settings into a new folder, or check that those of its results agree.

    Pictures made under other settings of their own are removed, to be drawn again. Results that are damaged
    are left out, and that is said: their rows are found in the store, or made again.

    Returns:
        The results that the folder holds.

    Raises:
        ValueError: the folder holds results of other settings, or its settings are damaged; says which.
    """
    settings = {**panel_identity(config), "data_sha256": run.data_sha256}
    rows = {row.name: row_identity(row, config) for row in panel.rows}
    path, results, seal = folder / CONFIG_FILE, [], {}
    stored = read_record(path) if path.is_file() else {}
    try:
        results = stored_results(folder)
    except DamagedFile as error:
        run.console.print(f"[yellow]{error} Its rows are found again or made again.[/]", soft_wrap=True)
    if stored:
        done = {record.method for record in results}
        with reading(path, "the settings of a panel"):
            differing = [
                *_differences("", stored["config"], settings, set(settings) - {"pairs", *PICTURED}),
                *_differences("row ", stored["rows"], rows, done & set(rows)),
            ]
        seal = {RESULTS_SEAL: stored[RESULTS_SEAL]} if results and RESULTS_SEAL in stored else {}
        if differing:
            raise ValueError(
                f"reproduce: out_dir must be new or hold results of these settings; {folder} holds others "
                f"({'; '.join(differing)}). Name another folder by --out_dir."
            )
        if _differences("", stored["config"], settings, set(PICTURED)):
            for name in (CURVE_FIGURE, LANDSCAPE_FIGURE):
                (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    named = {"table": table.name, **({"panel": panel.name} if panel.name else {})}
    fields = {**named, "config": settings, "rows": rows, "notes": list(run.notes)}
    write_record(path, {**fields, **seal})
    return results


def _differences(kind: str, old: Mapping[str, Any], new: Mapping[str, Any], names: set[str]) -> list[str]:
    """Which of some settings are not the same, in words."""
    found = []
    for name in sorted(names):
        before, after = old.get(name), new[name]
        inner: list[str] = []
        if isinstance(before, dict) and isinstance(after, dict):
            inner = [key for key in after if before.get(key) != after[key]]
        if before != after:
            found.append(f"{kind}{name}{': ' if inner else ''}{', '.join(inner)}")
    return found
