"""Data of your own: a NumPy archive, a folder of images, or a data set of another library by its name.

| name | what is read |
|---|---|
| `PATH.npz` | arrays `x_train`, `y_train`, `x_test` and `y_test` |
| `FOLDER` | images in one subfolder a class, or such in `FOLDER/train` and `FOLDER/test` |
| `tfds:NAME` | tensorflow-datasets, its features `image` and `label` |
| `hf:NAME` | Hugging Face datasets, its image and its class label |
"""

import difflib
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autofusion_jax.validation import require
from data.dataset import Dataset
from data.files import memory_bytes, read_npz, reading, reason
from data.splits import generator

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TFDS, HUGGING_FACE, ARCHIVE = "tfds:", "hf:", ".npz"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
"""Pillow's names of the kinds of images with 8 bits a channel: it would clip larger values to 255 unseen."""
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_SHARE = 0.2
"""Share of the images that is put aside for testing where there are no test images."""


def is_own(name: str) -> bool:
    """Whether a name is that of data that is not registered."""
    path = name.startswith(("~", ".")) or os.sep in name or name.endswith(ARCHIVE) or Path(name).is_dir()
    return path or name.startswith((TFDS, HUGGING_FACE))


def load_own(name: str) -> Dataset:
    """Load data that is not registered; see the table above.

    Raises:
        FileNotFoundError: there is no such file, folder or data set; names the nearest.
        ValueError: it is not images with classes; says what it must be.
        ModuleNotFoundError: a package is missing; says which.
    """
    if name.startswith(TFDS):
        return _from_tfds(name)
    if name.startswith(HUGGING_FACE):
        return _from_hugging_face(name)
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"load_dataset: there is no {path}.{_nearest(path)}")
    return _from_archive(name, path) if path.is_file() else _from_folder(name, path)


def from_arrays(
    name: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    source: str = "arrays",
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of arrays in memory.

    Args:
        name: what results call it.
        x_train: uint8 images `[N, height, width, channels]` or `[N, height, width]`, or floats `[N, ...]`, as
            the network is to see them.
        y_train: classes `[N]`, integers from 0.
        x_test: likewise `[M, ...]`.
        y_test: likewise `[M]`.
        source: where it came from, as one phrase.
        notes: what every report made from it must say.

    Raises:
        ValueError: shapes or classes do not fit; says which.

    Example:
        >>> x, y = np.zeros((6, 8, 8), np.uint8), np.array([0, 1, 2, 0, 1, 2])
        >>> data = from_arrays("mine", x, y, x, y)
        >>> data.num_classes, data.train_images.shape
        (3, (6, 8, 8, 1))
    """
    images = {"x_train": np.asarray(x_train), "x_test": np.asarray(x_test)}
    labels = {"y_train": np.asarray(y_train), "y_test": np.asarray(y_test)}
    for (key, x), (label, y) in zip(images.items(), labels.items()):
        good = x.ndim >= 2 and len(x) > 0 and (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating))
        require(good, name, key, "uint8 or float [N, ...]", f"{x.dtype} {list(x.shape)}")
        bad = x.dtype != np.uint8 and not np.isfinite(x).all()
        require(not bad, name, key, "finite", "NaN or infinite values")
        good = y.shape == (len(x),) and np.issubdtype(y.dtype, np.integer)
        require(good, name, label, f"integers [{len(x)}]", f"{y.dtype} {list(y.shape)}")
    require(images["x_test"].shape[1:] == images["x_train"].shape[1:], name, "x_test",
            f"[M, {', '.join(map(str, images['x_train'].shape[1:]))}], as x_train is",
            list(images["x_test"].shape))  # fmt: skip
    classes = np.unique(np.concatenate(list(labels.values())))
    good = len(classes) >= 2 and (classes == np.arange(len(classes))).all()
    require(good, name, "y_train and y_test", "all of 0 to k - 1, k >= 2", classes[:20].tolist())
    x_train, x_test = (x[..., None] if x.ndim == 3 and x.dtype == np.uint8 else x for x in images.values())
    y_train, y_test = (y.astype(np.int32) for y in labels.values())
    return Dataset(name, len(classes), x_train, y_train, x_test, y_test, source, tuple(notes))


def _from_archive(name: str, path: Path) -> Dataset:
    arrays = read_npz(path, most=memory_bytes())
    missing = [key for key in ARRAYS if key not in arrays]
    require(not missing, f"load_dataset: {path}", "its arrays", ", ".join(ARRAYS), sorted(arrays))
    return from_arrays(name, *(arrays[key] for key in ARRAYS), source=str(path))


def _from_folder(name: str, path: Path) -> Dataset:
    train, test = path / "train", path / "test"
    if train.is_dir() and test.is_dir():
        classes = _subfolders(train)
        (x_train, y_train), (x_test, y_test) = (_read_images(part, classes) for part in (train, test))
        return from_arrays(name, x_train, y_train, x_test, y_test, source=str(path))
    x, y = _read_images(path, _subfolders(path))
    return _held_out(name, x, y, source=str(path))


def _subfolders(path: Path) -> list[str]:
    names = sorted(child.name for child in path.iterdir() if child.is_dir() and child.name[0] != ".")
    advice = "Make one folder for each class, with its images."
    require(len(names) >= 2, f"load_dataset: {path}", "its subfolders", "two or more", names, advice)
    return names


def _read_images(folder: Path, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All images of a folder, `[N, height, width, channels]`, and the number of each one's subfolder."""
    images, labels, first = [], [], None
    for number, name in enumerate(classes):
        for path in sorted((folder / name).glob("*")):
            if path.suffix.lower() not in IMAGES or not path.is_file():
                continue
            pixels = _read_image(path)
            first = first or (path, pixels.shape)
            advice = f"{first[0]} is {list(first[1])}. Bring all to one size and kind."
            require(pixels.shape == first[1], "load_dataset", str(path), "as large as the others",
                    list(pixels.shape), advice)  # fmt: skip
            images.append(pixels)
            labels.append(number)
    wanted = f"of images ({', '.join(IMAGES)})"
    require(bool(images), f"load_dataset: {folder}", "its subfolders", wanted, "none")
    return np.stack(images), np.asarray(labels)


def _read_image(path: Path) -> np.ndarray:
    """The pixels of one image, uint8 `[height, width]` or `[height, width, 3]`."""
    from PIL import Image

    with reading(path, "an image with 8 bits a channel"), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            image.verify()  # a PNG's checksums, which reading its pixels leaves out
        with Image.open(path) as image:
            require(image.mode in MODES, "it", "its mode", "L, RGB or the like", image.mode)
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"), np.uint8)


def _held_out(name: str, x: np.ndarray, y: np.ndarray, *, source: str) -> Dataset:
    """Images without a test set: a fixed seed puts some aside, and every report says so."""
    order, count = generator("test_share", 0).permutation(len(x)), round(TEST_SHARE * len(x))
    test, train = np.sort(order[:count]), np.sort(order[count:])
    note = (
        f"{name}: it has no test images; a fixed seed splits its {len(x):,} images into {len(train):,} for "
        f"training and {len(test):,} for testing."
    )
    return from_arrays(name, x[train], y[train], x[test], y[test], source=source, notes=(note,))


def _from_tfds(name: str) -> Dataset:
    wanted = name.removeprefix(TFDS)
    tfds = _module("tensorflow_datasets", "tensorflow-datasets array-record", name)
    try:
        builder = tfds.builder(wanted, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise _unknown(name, tfds.list_builders()) from error
    except Exception as error:  # a half-prepared or foreign folder raises many kinds
        raise FileNotFoundError(f"load_dataset: {name} cannot be loaded: {reason(error)}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # so do the network and the readers of damaged files
        raise FileNotFoundError(f"load_dataset: {name} cannot be prepared: {reason(error)}") from error

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = builder.as_data_source(split=split)
        return _stack(name, ((row["image"], row["label"]) for row in (rows[i] for i in range(len(rows)))))

    return _of_splits(name, list(builder.info.splits), read)


def _from_hugging_face(name: str) -> Dataset:
    wanted = name.removeprefix(HUGGING_FACE)
    datasets = _module("datasets", "datasets", name)
    try:
        splits = datasets.load_dataset(wanted)
    except Exception as error:  # the hub, the network and the cache raise many kinds
        raise FileNotFoundError(f"load_dataset: {name} cannot be loaded: {reason(error)}") from error
    features = next(iter(splits.values())).features
    columns = {type(feature).__name__: key for key, feature in reversed(list(features.items()))}
    good = {"Image", "ClassLabel"} <= set(columns)
    require(good, f"load_dataset: {name}", "its columns", "an Image and a ClassLabel among others",
            {key: type(feature).__name__ for key, feature in features.items()})  # fmt: skip

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        return _stack(name, ((row[columns["Image"]], row[columns["ClassLabel"]]) for row in splits[split]))

    return _of_splits(name, list(splits), read)


def _of_splits(
    name: str, splits: Sequence[str], read: Callable[[str], tuple[np.ndarray, np.ndarray]]
) -> Dataset:
    """A data set of its split `train`, and of `test` or `validation` where there is one."""
    require("train" in splits, f"load_dataset: {name}", "its splits", "train among others", list(splits))
    tests = [split for split in ("test", "validation") if split in splits]
    if not tests:
        return _held_out(name, *read("train"), source=name)
    return from_arrays(name, *read("train"), *read(tests[0]), source=name)


def _stack(name: str, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*((np.asarray(image, np.uint8), int(label)) for image, label in rows))
    shapes = {image.shape for image in images}
    require(len(shapes) == 1, f"load_dataset: {name}", "its images", "of one size", sorted(shapes)[:5])
    return np.stack(images), np.asarray(labels)


def _module(module: str, packages: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"load_dataset: {name} needs a package that is not installed: pip install {packages}"
        ) from error


def _unknown(name: str, known: Sequence[str]) -> FileNotFoundError:
    kind, wanted = name.split(":", 1)
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    hint = f" Did you mean {kind}:{near[0]}?" if near else ""
    return FileNotFoundError(f"load_dataset: there is no {name}.{hint}")


def _nearest(path: Path) -> str:
    """The nearest file or folder that is there, as a question."""
    known = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.5)
    return f" Did you mean {path.parent / near[0]}?" if near else ""
