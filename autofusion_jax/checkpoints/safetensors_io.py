"""Safetensors files: read part by part, written in a stream, whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from autofusion_jax.atomic import LONGEST_NAME, new_file
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.json_reader import parse_json, read_json, shown

LOGGER = logging.getLogger("autofusion_jax")
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("c8"),
    **{f"I{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"u{size}") for size in (1, 2, 4, 8)},
    "BOOL": np.dtype(bool),
}
"""What the format calls them."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
DIGEST, NO_DIGEST = "autofusion_jax.sha256", b"0" * 64
CHECKSUM = {DIGEST: NO_DIGEST.decode(), f"{DIGEST}_of": "this file with 64 zeros in its place"}
"""Metadata of every file that is written."""
BLOCK_BYTES = 1 << 22
"""Bytes that are hashed at once."""


class StoredLeaf(NamedTuple):
    """The place of a leaf in a file.

    Attributes:
        file: the file.
        start: its first byte there.
        dtype: its dtype.
        shape: its shape.
    """

    file: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self) -> np.ndarray:
        """The whole leaf."""
        values = np.empty(self.shape, self.dtype)
        self.read_into(values.reshape(-1), 0)
        return values

    def read_into(self, out: np.ndarray, first: int) -> None:
        """Read as many entries as `out` `[n]` takes, from entry `first` on.

        Raises:
            CheckpointError: the file ends before them.
        """
        raw = out.view(np.uint8).data
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.start + first * self.dtype.itemsize)
            done = 0
            while done < raw.nbytes:
                got = file.readinto(raw[done:])
                if not got:
                    raise CheckpointError(f"open_safetensors: {self.file} became shorter while it was read.")
                done += got


class StoredNetwork(NamedTuple):
    """A network in files, none of whose numbers were read.

    Attributes:
        path: the file or folder.
        leaves: its leaves by name.
        metadata: the `__metadata__` of the (first) file.
        files: the file, or the shards.
    """

    path: Path
    leaves: dict[str, StoredLeaf]
    metadata: dict[str, str]
    files: tuple[Path, ...]

    def verify(self) -> "StoredNetwork":
        """Read all files, and hold them against the checksums that `write_safetensors` puts into its own.

        Of files without one the logger `autofusion_jax` says so, at level INFO.

        Returns:
            The network.

        Raises:
            CheckpointError: a file was changed; names it.
        """
        for file in self.files:
            _verify(file)
        return self


def open_safetensors(path: str | os.PathLike[str]) -> StoredNetwork:
    """Read where the leaves of a network lie; no numbers, nothing is unpickled.

    Args:
        path: a safetensors file, or a folder with `model.safetensors`, or else with
            `model.safetensors.index.json` and the shards that it names, as transformers looks for them.

    Raises:
        FileNotFoundError: a file is missing; names it.
        CheckpointError: a file is truncated or is not what it should be; names it.
    """
    path = Path(path)
    if not path.is_dir():
        leaves, metadata = _read_header(path)
        return StoredNetwork(path, leaves, metadata, (path,))
    if (path / SINGLE).is_file():
        return open_safetensors(path / SINGLE)._replace(path=path)
    if not (path / INDEX).is_file():
        raise FileNotFoundError(f"open_safetensors: {path} must hold {SINGLE} or {INDEX}; it has neither.")
    weight_map = _read_index(path / INDEX)
    leaves: dict[str, StoredLeaf] = {}
    metadata = {}
    for shard in dict.fromkeys(weight_map.values()):
        held, found = _read_header(path / shard)
        metadata = metadata or found
        listed = {leaf for leaf, name in weight_map.items() if name == shard}
        for leaf in (*sorted(listed - held.keys()), *sorted(held.keys() - listed)):
            must = (
                f"hold {leaf!r}, as {INDEX} says"
                if leaf in listed
                else f"not hold {leaf!r}, which {INDEX} leaves out"
            )
            raise CheckpointError(f"open_safetensors: {path / shard} must {must}.")
        leaves |= held
    shards = tuple(path / shard for shard in dict.fromkeys(weight_map.values()))
    return StoredNetwork(path, {leaf: leaves[leaf] for leaf in weight_map}, metadata, shards)


def _read_index(path: Path) -> dict[str, str]:
    index = read_json(path, "open_safetensors", CheckpointError)
    index.require("weight_map" in index.mapping(), "an object with 'weight_map'")
    weight_map = index.mapping()["weight_map"]
    weight_map.require(bool(weight_map.mapping()), "the name of a file for every tensor")
    for shard in weight_map.mapping().values():
        name = shard.text()
        plain = Path(name).name == name and name.isprintable() and len(os.fsencode(name)) < LONGEST_NAME
        shard.require(plain, "the name of a file in this folder")
    return weight_map.value


def _read_header(path: Path) -> tuple[dict[str, StoredLeaf], dict[str, str]]:
    """Leaves and metadata of one file; safetensors itself checks its header against its length."""
    if not path.is_file():
        raise FileNotFoundError(f"open_safetensors: there is no file {path}.")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        reason = shown(str(error))
        raise CheckpointError(
            f"open_safetensors: {path} is no whole safetensors file: {reason}. Was its download cut off?"
        ) from error
    raw, header = _raw_header(path)
    metadata = header.pop("__metadata__", None) or {}
    leaves = {}
    for name, entry in sorted(header.items()):
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"open_safetensors: {path}[{name!r}] has dtype {entry['dtype']}; known: {', '.join(DTYPES)}."
            )
        start = 8 + len(raw) + entry["data_offsets"][0]
        leaves[name] = StoredLeaf(path, start, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return leaves, {name: value for name, value in metadata.items() if name not in CHECKSUM}


def _raw_header(path: Path) -> tuple[bytes, dict[str, Any]]:
    with open(path, "rb") as file:
        raw = file.read(int.from_bytes(file.read(8), "little"))
    return raw, parse_json(raw.decode(), f"open_safetensors: header of {path}", CheckpointError).value


def _verify(path: Path) -> None:
    """Hold a file against the checksum in its header; of two entries, so that no changed byte hides both."""
    header, fields = _raw_header(path)
    metadata = fields.get("__metadata__") or {}
    kept = [name for name in CHECKSUM if name in metadata]
    if not kept:
        LOGGER.info("%s has no checksum: changed bytes in it would not be seen.", path)
        return
    digest = hashlib.sha256(len(header).to_bytes(8, "little"))
    written = metadata.get(DIGEST, "").encode()
    digest.update(header.replace(written, NO_DIGEST, 1))
    with open(path, "rb") as file:
        file.seek(8 + len(header))
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    if len(kept) != len(CHECKSUM) or digest.hexdigest().encode() != written:
        raise CheckpointError(
            f"load: {path} was changed since it was written (its SHA-256 differs). Take another "
            f"copy; if the change was meant, take {' and '.join(CHECKSUM)} out of its metadata."
        )


def stored_order(leaves: Mapping[str, StoredLeaf]) -> list[str]:
    """Names in the order in which they are written: wide dtypes first (so all are aligned), then by name."""
    return sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, leaves[name].dtype.name, name))


@contextlib.contextmanager
def write_safetensors(
    path: str | os.PathLike[str],
    leaves: Mapping[str, StoredLeaf],
    metadata: Mapping[str, str],
    *,
    overwrite: bool = True,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a file for a network whose numbers come later, in `stored_order` of its leaves.

    It has another name until it is whole; if anything is raised before, it is removed, and a file
    of that name that was there stays. Its metadata get a SHA-256 of all its bytes.

    Args:
        path: the file to write; its parents are made.
        leaves: name, dtype and shape of every leaf; where they lie does not matter.
        metadata: the `__metadata__` of the file.
        overwrite: replace a file that is there.

    Yields:
        A function that appends the entries of an array.

    Raises:
        FileExistsError: the file is there, and `overwrite` is False.
        ValueError: other numbers of bytes were appended than the leaves have.
    """
    header: dict[str, Any] = {"__metadata__": {**CHECKSUM, **metadata}}
    end = 0
    for name in stored_order(leaves):
        leaf = leaves[name]
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        header[name] = {"dtype": NAMES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    with new_file(path, overwrite=overwrite) as part, open(part, "r+b", buffering=0) as file:
        digest = hashlib.sha256()

        def append(values: np.ndarray) -> None:
            raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            digest.update(raw)
            while raw:
                raw = raw[file.write(raw) :]

        append(np.frombuffer(text, np.uint8))
        yield append
        written = file.tell() - len(text)
        if written != end:
            raise ValueError(f"write_safetensors: the leaves must have {end} bytes; got {written}.")
        file.seek(text.index(NO_DIGEST))  # the digest of the file with this in place of the digest
        file.write(digest.hexdigest().encode())
