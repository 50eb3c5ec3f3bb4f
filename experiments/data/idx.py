"""The IDX format of the MNIST family, gzipped or not."""

import gzip
import struct
from pathlib import Path

import numpy as np

from data.dataset import Arrays, ChecksumError

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of bytes.

    Raises:
        ChecksumError: it is not a whole IDX file of bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, rank = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
        if zeros != 0 or kind != 8 or values.size != np.prod(shape):
            raise ValueError(f"{values.size} bytes for shape {shape}")
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise ChecksumError(
            f"load_dataset: {path} must be a whole IDX file of bytes; {error}. Remove it and run again."
        ) from error
    return values.reshape(shape)


def read_idx_folder(folder: Path) -> Arrays:
    """Read the four IDX files of a folder; those of the training split may both lack.

    Raises:
        FileNotFoundError: names the first file that lacks.
        ChecksumError: a file is damaged.
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
