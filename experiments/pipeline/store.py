"""The store of results: one folder for all scripts, in which every entry is named by what it depends on."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from data.files import memory_bytes, read_npz

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

    An entry is a folder. It is written beside its place, flushed to disk and renamed, so it is there whole
    or not at all. It holds the SHA-256 of each of its files: one that is missing, empty or changed makes it
    damaged, and it is made again.

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
        if path.is_dir():
            try:
                return Stored(path, _read(path, identity), False)
            except Damaged as why:
                self.console.print(f"[yellow]{path} is damaged ({why}): made again[/]", soft_wrap=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=self.folder))
        try:
            content = dict(make(work))
            _seal(work, {"identity": identity, "content": content})
            shutil.rmtree(path, ignore_errors=True)
            os.replace(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        _flush(self.folder)
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
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name."""
    np.savez(path, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote; raises as `read_npz` does."""
    return read_npz(path, most=memory_bytes())


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an entry, once all its files are as they were written."""
    try:
        entry = json.loads((path / ENTRY_FILE).read_text(encoding="utf-8"))
        good = entry["identity"] == json.loads(json.dumps(identity))
        files, content = entry["files"], entry["content"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{ENTRY_FILE} cannot be read") from error
    if not good:
        raise Damaged(f"{ENTRY_FILE} is of other settings")
    found = _checksums(path)
    for name, checksum in files.items():
        if found.get(name) != checksum:
            raise Damaged(f"{name} was changed" if name in found else f"{name} is missing")
    return content


def _seal(folder: Path, entry: Mapping[str, Any]) -> None:
    """Write the file that makes a folder an entry, and flush all its files to disk."""
    text = json.dumps({**entry, "files": _checksums(folder)}, indent=2) + "\n"
    (folder / ENTRY_FILE).write_text(text, encoding="utf-8")
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        _flush(path)
    _flush(folder)


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ENTRY_FILE)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to disk; not every file system does folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
