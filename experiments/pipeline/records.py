"""Files of results: each says the checksum of what it must hold, so that what is damaged is seen."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autofusion_jax.atomic import new_file, write_text
from autofusion_jax.evaluation.results import Result, read_results, write_results
from data.files import DamagedFile, read_json, reading

CONFIG_FILE, RESULTS_FILE = "config.json", "results.jsonl"
SEAL, RESULTS_SEAL = "sha256", "results_sha256"
"""Of a record its own checksum; in the settings of a folder those that its results may have."""


def write_record(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object, and the checksum of its content in it, whole or not at all."""
    sealed = {**fields, SEAL: checksum({name: value for name, value in fields.items() if name != SEAL})}
    write_text(path, json.dumps(sealed, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote, or an older record that says no checksum.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it is no JSON object, or not as it was written.
    """
    fields = read_json(path, "a JSON object")
    with reading(path, "as it was written"):
        if not isinstance(fields, dict):
            raise ValueError(f"it holds a {type(fields).__name__}")
        seal = fields.pop(SEAL, None)
        if seal not in (None, checksum(fields)):
            raise ValueError("its content was changed")
    return fields


def checksum(fields: Mapping[str, Any]) -> str:
    """The SHA-256 of an object as JSON holds it, whatever the order of its names."""
    plain = json.dumps(json.loads(json.dumps(fields)), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def file_checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_rows(folder: Path, results: Iterable[Result]) -> None:
    """Write the results of a folder, and their checksum into its settings.

    The settings name the present checksum and the next one before the results are replaced: stopped
    between the two, the folder is in order.
    """
    path, fields = folder / RESULTS_FILE, read_record(folder / CONFIG_FILE)
    with new_file(path) as part:
        write_results(part, results)
        present = [file_checksum(path)] if path.is_file() else []
        write_record(folder / CONFIG_FILE, {**fields, RESULTS_SEAL: [*present, file_checksum(part)]})


def read_rows(folder: Path) -> list[Result]:
    """Read the results of a folder, held against the checksum in its settings where there is one.

    Raises:
        FileNotFoundError: there are none.
        DamagedFile: they or the settings are not as they were written; names the file.
    """
    path, settings = folder / RESULTS_FILE, folder / CONFIG_FILE
    known = read_record(settings).get(RESULTS_SEAL) if settings.is_file() else None
    with reading(settings, "the settings of a run"):
        if known is not None and file_checksum(path) not in known:
            raise DamagedFile(f"{path} was changed: its SHA-256 is none of those in {CONFIG_FILE}.")
    try:
        return read_results(path)
    except ValueError as error:
        raise DamagedFile(str(error)) from error
