"""The IDX format of the MNIST family, gzipped or not."""

import math
import struct
from pathlib import Path

import numpy as np

from data.dataset import Arrays
from data.files import MOST_BYTES, opened, read_bounded, reading

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
UNSIGNED_BYTES, MOST_AXES = 8, 4


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of bytes: no more of it is inflated than its header promises.

    Raises:
        DamagedFile: it is not a whole IDX file of bytes, or one of more than `MOST_BYTES`.
    """
    with reading(path, "a whole IDX file of bytes"), opened(path) as file:
        zeros, kind, rank = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != UNSIGNED_BYTES or not 1 <= rank <= MOST_AXES:
            raise ValueError(f"its header is {zeros}, kind {kind}, {rank} axes")
        shape = struct.unpack(f">{rank}I", file.read(4 * rank))
        size = math.prod(shape)
        if size > MOST_BYTES:
            raise ValueError(f"its shape is {shape}")
        values = np.frombuffer(read_bounded(file, size), np.uint8)
        if values.size != size:
            raise ValueError(f"{values.size} bytes for shape {shape}")
        return values.reshape(shape)


def read_idx_folder(folder: Path) -> Arrays:
    """Read the four IDX files of a folder; those of the training split may both lack.

    Raises:
        FileNotFoundError: names the first file that lacks.
        DamagedFile: a file is damaged.
    """
    present = {name: _find(folder, name) for name in IDX_FILES}
    wanted = IDX_FILES if present[IDX_FILES[0]] or present[IDX_FILES[1]] else IDX_FILES[2:]
    for name in wanted:
        if present[name] is None:
            raise FileNotFoundError(f"{folder} lacks {name}[.gz]")
    values = {name: read_idx(path) for name, path in present.items() if path is not None}
    arrays: Arrays = {}
    for prefix, split in (("train", "train"), ("t10k", "test")):
        if f"{prefix}-images-idx3-ubyte" in values:
            arrays[f"{split}_images"] = values[f"{prefix}-images-idx3-ubyte"][..., None]
            arrays[f"{split}_labels"] = values[f"{prefix}-labels-idx1-ubyte"]
    return arrays


def _find(folder: Path, name: str) -> Path | None:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    return None
