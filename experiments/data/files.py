"""Files that anyone may have written: read within bounds, refused in one line where they are damaged."""

import contextlib
import gzip
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from autofusion_jax.validation import require

MOST_BYTES = 2**29
"""What a file of a registered data set may hold once it is inflated: twice as much as the largest does."""
MOST_MEMBERS = 100_000
"""Files that an archive may hold."""
PADDING = 2**20
"""Bytes that may follow the last file of a tar archive."""


class DamagedFile(ValueError):
    """A file is there but is not what it must be; the message names it."""


@contextlib.contextmanager
def reading(path: Path, must_be: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one line that names it.

    Parsers meet damaged bytes with errors of many kinds: zlib, zipfile, tarfile, struct, json and Pillow
    each have their own, and some of them are no ValueError.

    Args:
        path: the file.
        must_be: what it must be.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: anything else.
    """
    try:
        yield
    except (FileNotFoundError, DamagedFile):
        raise
    except Exception as error:
        raise DamagedFile(f"{path} must be {must_be}; {reason(error)}. Remove it and run again.") from error


def reason(error: BaseException) -> str:
    """Why something failed, as a short piece of one line."""
    if "allow_pickle" in str(error):  # NumPy advises to load what it does not trust
        return "it holds Python objects, which are never read"
    text = str(error).strip().splitlines()
    return text[0][:160].rstrip(".") if text else type(error).__name__


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; of one that ends in `.gz` the inflated bytes."""
    with path.open("rb") as raw:
        if path.suffix != ".gz":
            yield raw
        elif not raw.peek(1):  # gzip takes it for nothing, zipped
            raise EOFError("it is empty")
        else:
            with gzip.GzipFile(fileobj=raw) as inflated:
                yield inflated  # type: ignore[misc]


def read_bounded(file: BinaryIO, most: int = MOST_BYTES) -> bytes:
    """Read a file to its end.

    Raises:
        ValueError: it holds more than `most` bytes; no more than that is inflated.
    """
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it holds more than {most:,} bytes")
    return content


def read_json(path: Path, must_be: str = "JSON as it was written") -> Any:
    """Read a JSON file; `must_be` is what it must hold. Raises as `reading` does."""
    with reading(path, must_be):
        return json.loads(path.read_text(encoding="utf-8"))


def read_npz(path: Path, *, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy archive by name.

    Args:
        path: the file.
        most: bytes that it may hold once it is inflated.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it is no archive of plain arrays, or holds more.
    """
    with reading(path, "a NumPy archive (np.savez)"):
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}")
        if not zipfile.is_zipfile(path):  # else NumPy takes it for a pickle
            raise ValueError("it is no zip file")
        with zipfile.ZipFile(path) as members:
            total = sum(member.file_size for member in members.infolist())
        if total > most:
            raise ValueError(f"it holds {total:,} bytes, more than {most:,}")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        others = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
        require(not others, "it", "its members", "arrays", others)
        return arrays


def memory_bytes() -> int:
    """How much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def unpack_tar(archive: Path, target: Path, *, most: int = MOST_BYTES) -> None:
    """Unpack an archive, file by file, into a folder that nothing of it can leave.

    Raises:
        DamagedFile: it is no whole archive, reaches outside, or holds more than `most` bytes.
    """
    total = 0
    with reading(archive, "a tar archive"), tarfile.open(archive) as tar:
        for number, member in enumerate(tar):
            total += member.size
            if total > most or number >= MOST_MEMBERS:
                raise ValueError(f"it holds more than {most:,} bytes or {MOST_MEMBERS:,} files")
            tar.extract(member, target, filter="data")
        read_bounded(tar.fileobj, PADDING)  # type: ignore[arg-type]  # to its end, where gzip's checksum is
