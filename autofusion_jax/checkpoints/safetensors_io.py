"""Safetensors files: read part by part, written in a stream, whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from autofusion_jax.checkpoints.orbax_io import CheckpointError

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
    """

    path: Path
    leaves: dict[str, StoredLeaf]
    metadata: dict[str, str]


def open_safetensors(path: str | os.PathLike[str]) -> StoredNetwork:
    """Read where the leaves of a network lie; no numbers, nothing is unpickled.

    Args:
        path: a safetensors file, or a folder with `model.safetensors.index.json` and the shards
            that it names, or with `model.safetensors`.

    Raises:
        FileNotFoundError: a file is missing; names it.
        CheckpointError: a file is truncated or is not what it should be; names it.
    """
    path = Path(path)
    if not path.is_dir():
        leaves, metadata = _read_header(path)
        return StoredNetwork(path, leaves, metadata)
    if not (path / INDEX).is_file():
        if not (path / SINGLE).is_file():
            raise FileNotFoundError(
                f"open_safetensors: {path} must hold {INDEX} or {SINGLE}; it has neither."
            )
        return open_safetensors(path / SINGLE)._replace(path=path)
    weight_map = _read_index(path / INDEX)
    shards = {name: _read_header(path / name) for name in dict.fromkeys(weight_map.values())}
    for leaf, shard in weight_map.items():
        if leaf not in shards[shard][0]:
            raise CheckpointError(
                f"open_safetensors: {path / shard} must hold {leaf!r}, as {INDEX} says; it does not."
            )
    leaves = {leaf: shards[shard][0][leaf] for leaf, shard in weight_map.items()}
    return StoredNetwork(path, leaves, next(iter(shards.values()))[1])


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        ok = weight_map and all(isinstance(shard, str) for shard in weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        ok, weight_map = False, {}
    if not ok:
        raise CheckpointError(
            f'open_safetensors: {path} must be JSON with "weight_map", a file name for every leaf; it is not.'
        )
    for shard in weight_map.values():
        if Path(shard).name != shard:
            raise CheckpointError(
                f"open_safetensors: {path} must name files in its own folder; it names {shard!r}."
            )
    return weight_map


def _read_header(path: Path) -> tuple[dict[str, StoredLeaf], dict[str, str]]:
    """Leaves and metadata of one file; safetensors itself checks its header against its length."""
    if not path.is_file():
        raise FileNotFoundError(f"open_safetensors: there is no file {path}.")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"open_safetensors: {path} is no whole safetensors file: {error}. Was its download cut off?"
        ) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    leaves = {}
    for name, entry in sorted(header.items()):
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"open_safetensors: {path}[{name!r}] has dtype {entry['dtype']}; known: {', '.join(DTYPES)}."
            )
        start = 8 + length + entry["data_offsets"][0]
        leaves[name] = StoredLeaf(path, start, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return leaves, metadata


def stored_order(leaves: Mapping[str, StoredLeaf]) -> list[str]:
    """Names in the order in which they are written: wide dtypes first (so all are aligned), then by name."""
    return sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, leaves[name].dtype.name, name))


@contextlib.contextmanager
def write_safetensors(
    path: str | os.PathLike[str], leaves: Mapping[str, StoredLeaf], metadata: Mapping[str, str]
) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a file for a network whose numbers come later, in `stored_order` of its leaves.

    It has another name until it is whole; if anything is raised before, it is removed, and a file
    of that name that was there stays.

    Args:
        path: the file to write; its parents are made.
        leaves: name, dtype and shape of every leaf; where they lie does not matter.
        metadata: the `__metadata__` of the file.

    Yields:
        A function that appends the entries of an array.

    Raises:
        ValueError: other numbers of bytes were appended than the leaves have.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in stored_order(leaves):
        leaf = leaves[name]
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        header[name] = {"dtype": NAMES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    descriptor, work = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            file.write(len(text).to_bytes(8, "little") + text)

            def append(values: np.ndarray) -> None:
                raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
                while raw:
                    raw = raw[file.write(raw) :]

            yield append
            written = file.tell() - 8 - len(text)
        if written != end:
            raise ValueError(f"write_safetensors: the leaves must have {end} bytes; got {written}.")
        os.chmod(work, 0o644)
        os.replace(work, target)
    finally:
        Path(work).unlink(missing_ok=True)
