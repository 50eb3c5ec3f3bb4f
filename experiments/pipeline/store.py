"""The store of results: one folder for all scripts, in which every entry is named by what it depends on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from autofusion_jax.atomic import locked, new_file, new_folder
from data.files import memory_bytes, read_npz
from pipeline.records import checksum, file_checksum, read_record, write_record

ENTRY_FILE, ARRAYS_FILE = "entry.json", "arrays.npz"
DIGITS = 16


class Stored(NamedTuple):
    """One entry of the store.

    Attributes:
        folder: where its files lie.
        content: what was written of it as JSON.
        is_new: whether it was made now, not found.
    """

    folder: Path
    content: dict[str, Any]
    is_new: bool


class Damaged(Exception):
    """An entry is there but cannot be trusted; the message says why."""


class Store:
    """Entries that are made once and found again, by the SHA-256 of all that they depend on.

    An entry is a folder, there whole or not at all. It holds the SHA-256 of each of its files and of its
    record: one that is missing, empty or changed makes it damaged, and it is made again. Whoever looks for an
    entry that another process is making waits for it.

    Attributes:
        folder: where the entries lie.
        console: where a damaged entry is told.
    """

    def __init__(self, folder: Path, console: Console):
        self.folder, self.console = folder, console

    def find_or_make(
        self, name: str, identity: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]
    ) -> Stored:
        """Find an entry, or make it.

        Args:
            name: what the entry is of; its folder's name begins so.
            identity: all that it depends on, as JSON holds it.
            make: writes files into the folder it is given; returns what else is to be kept, as JSON holds it.
        """
        path = self.folder / f"{name}_{digest(identity)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if path.is_dir():
                try:
                    return Stored(path, _read(path, identity), False)
                except Damaged as why:
                    self.console.print(f"[yellow]{path} is damaged ({why}): made again[/]", soft_wrap=True)
            with new_folder(path) as work:
                content = dict(make(work))
                fields = {"identity": identity, "content": content, "files": _checksums(work)}
                write_record(work / ENTRY_FILE, fields)
        return Stored(path, content, True)

    def arrays(
        self, name: str, identity: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """Find arrays by name, or make them."""

        def write(work: Path) -> dict[str, Any]:
            write_arrays(work / ARRAYS_FILE, make())
            return {}

        return read_arrays(self.find_or_make(name, identity, write).folder / ARRAYS_FILE)


def digest(identity: Mapping[str, Any]) -> str:
    """The name of what depends on these things."""
    return checksum(identity)[:DIGITS]


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, whole or not at all."""
    with new_file(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote; raises as `read_npz` does."""
    return read_npz(path, most=memory_bytes())


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an entry, once its record and all its files are as they were written."""
    try:
        entry = read_record(path / ENTRY_FILE)
        good = entry["identity"] == json.loads(json.dumps(identity))
        files, content = dict(entry["files"]), dict(entry["content"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{ENTRY_FILE} cannot be read or was changed") from error
    if not good:
        raise Damaged(f"{ENTRY_FILE} is of other settings")
    found = _checksums(path)
    for name, known in files.items():
        if found.get(name) != known:
            raise Damaged(f"{name} {'was changed' if name in found else 'is missing'}")
    return content


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / ENTRY_FILE)
    return {path.relative_to(folder).as_posix(): file_checksum(path) for path in paths}
