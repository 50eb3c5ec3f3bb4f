"""Damaged files of data sets and of runs, as the readers of the scripts meet them."""

import dataclasses
import gzip
import io
import json
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from autofusion_jax.evaluation.results import read_results
from data.cifar10 import CIFAR10, TEST_FILE, TRAIN_FILES, read_binary_batches, read_png_package
from data.dataset import verify
from data.files import unpack_tar
from data.idx import IDX_FILES, read_idx, read_idx_folder
from data.man_pages import page_passages
from data.own import load_own
from tests.fuzz.harness import Tally, expect
from tests.fuzz.mutations import damaged_bytes, damaged_json

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 8), np.uint8)
LABELS = (np.arange(20) % 3).astype(np.uint8)


def idx(values):
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx(packed, tmp_path, record_property):
    tally = Tally("IDX files" + (", gzipped" if packed else ""), "images-idx3")
    path = tmp_path / (IDX_FILES[0] + ".gz" * packed)
    whole = gzip.compress(idx(IMAGES)) if packed else idx(IMAGES)

    def read():
        values = read_idx(path)
        # a plain IDX file has no checksum: other bytes of the body are other images, and that is all
        expect(values.size > 0 or not packed, "nothing")
        expect(not packed or np.array_equal(values, IMAGES), "gzip holds a checksum, and these are others")

    for what, raw in damaged_bytes(whole, np.random.default_rng(1), 1500):
        path.write_bytes(raw)
        tally.run(what, read)
    for shape in ([2**31, 2**31, 4], [2**32 - 1] * 8, [1] * 200, [0], []):
        head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        path.write_bytes(gzip.compress(head) if packed else head)
        tally.run(shape, lambda: read_idx(path))
    tally.done(record_property, least=1500)


def test_idx_folders(tmp_path, record_property):
    tally = Tally("folders of IDX files", "idx[13]")
    arrays = (IMAGES, LABELS, IMAGES, LABELS)
    for name, values in zip(IDX_FILES, arrays):
        (tmp_path / name).write_bytes(idx(values))
    for name, values in zip(IDX_FILES, arrays):
        for what, raw in damaged_bytes(idx(values), np.random.default_rng(2), 60):
            (tmp_path / name).write_bytes(raw)
            tally.run((name, what), lambda: read_idx_folder(tmp_path))
        (tmp_path / name).unlink()
        tally.run((name, "missing"), lambda: read_idx_folder(tmp_path))
        (tmp_path / name).write_bytes(idx(values))
    tally.done(record_property, least=240)


def test_cifar_binaries(tmp_path, record_property):
    tally = Tally("CIFAR-10 as binaries", r"\.bin")
    rows = RNG.integers(0, 10, (2, 3073), np.uint8)
    for name in (*TRAIN_FILES, TEST_FILE):
        (tmp_path / name).write_bytes(rows.tobytes())
    for what, raw in damaged_bytes(rows.tobytes(), np.random.default_rng(3), 200):
        (tmp_path / TEST_FILE).write_bytes(raw)
        tally.run(what, lambda: read_binary_batches(tmp_path))
    tally.done(record_property, least=200)


def test_cifar_packages(tmp_path, record_property):
    tally = Tally("CIFAR-10 as PNG and JSON", "batch|lables|cifar10")
    image = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (2, 1024, 3), np.uint8)).save(image, "png")
    labels, unchecked = [1, 2], dataclasses.replace(CIFAR10, sha256={})
    pngs = [f"data_batch_{i}.png" for i in range(1, 6)] + ["test_batch.png"]
    for name in pngs:
        (tmp_path / name).write_bytes(image.getvalue())
    (tmp_path / "train_lables.json").write_text(json.dumps(labels * 5))
    (tmp_path / "test_lables.json").write_text(json.dumps(labels))

    def read():
        arrays = verify(unchecked, read_png_package(tmp_path), str(tmp_path))
        for split, num in (("train", 10), ("test", 2)):
            expect(arrays[f"{split}_images"].shape[1:] == (32, 32, 3), "another shape")
            expect(arrays[f"{split}_labels"].shape == (num,), "another number of labels")

    for what, raw in damaged_bytes(image.getvalue(), np.random.default_rng(4), 600):
        (tmp_path / "test_batch.png").write_bytes(raw)
        tally.run(what, read)
    (tmp_path / "test_batch.png").write_bytes(image.getvalue())
    for what, text in damaged_json(labels, np.random.default_rng(5), 200):
        (tmp_path / "test_lables.json").write_text(text)
        tally.run(what, read)
    tally.done(record_property, least=800)


def test_archives(tmp_path, record_property):
    tally = Tally("packages as tgz", r"package\.tgz")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("a/one.txt", "a/two.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 300
            archive.addfile(entry, io.BytesIO(bytes(range(100)) * 3))
    path = tmp_path / "package.tgz"
    for number, (what, raw) in enumerate(damaged_bytes(packed.getvalue(), np.random.default_rng(6), 600)):
        path.write_bytes(raw)
        target = tmp_path / str(number)

        def unpack(target=target):
            unpack_tar(path, target)
            files = [p for p in target.rglob("*") if p.is_file()]
            expect(all(p.stat().st_size <= 300 for p in files), "larger files")

        tally.run(what, unpack)
    tally.done(record_property, least=600)


def test_manual_pages(tmp_path, record_property):
    tally = Tally("manual pages", r"ls\.1\.gz|man1")
    (tmp_path / "man1").mkdir()
    source = (
        ".TH LS 1\n.SH NAME\nls \\- list the files of a folder and all that is in it\n.PP\n" + "word " * 200
    )
    path = tmp_path / "man1" / "ls.1.gz"
    for what, raw in damaged_bytes(gzip.compress(source.encode()), np.random.default_rng(7), 600):
        path.write_bytes(raw)
        tally.run(what, lambda: list(page_passages(tmp_path)))
    tally.done(record_property, least=600)


def test_own_archives(tmp_path, record_property):
    tally = Tally("own data as npz", r"own\.npz")
    path = tmp_path / "own.npz"
    x = RNG.normal(size=(30, 4)).astype(np.float32)
    whole = {"x_train": x, "y_train": np.arange(30) % 3, "x_test": x[:9], "y_test": np.arange(9) % 3}
    np.savez(path, **whole)

    def read():
        found = load_own(str(path))
        expect(np.isfinite(found.train_images).all(), "not finite")

    for what, raw in damaged_bytes(path.read_bytes(), np.random.default_rng(8), 700):
        path.write_bytes(raw)
        tally.run(what, read)
    odd = (
        x * np.nan, x * np.inf, x[:0], x[0], x.astype(str), x.astype(object), x[:5], x[:, 0], x[:, :0],
        1j * x, np.float32(1), None,
    )  # fmt: skip
    for number, other in enumerate(odd):
        for name in whole:
            arrays = {**whole, name: other}
            np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
            tally.run((name, number), read)
    tally.done(record_property, least=700)


def test_results(tmp_path, record_property):
    tally = Tally("results.jsonl", r"results\.jsonl")
    row = {
        "config": "c", "path": "x", "method": "average", "variant": None, "pair": 0, "repeat": 0, "seed": 0,
        "metrics": {"joint": 90.0, "task_a": 91.0, "task_b": 89.0, "avg": 90.0}, "seconds": 1.0,
        "num_learned": 0,
    }  # fmt: skip
    path = tmp_path / "results.jsonl"
    for what, text in damaged_json(row, np.random.default_rng(9), 800):
        path.write_text(json.dumps(row) + "\n" + text + "\n")
        tally.run(what, lambda: [str(r) for r in read_results(path)])
    for what, raw in damaged_bytes((json.dumps(row) + "\n").encode() * 2, np.random.default_rng(10), 400):
        path.write_bytes(raw)
        tally.run(what, lambda: read_results(path))
    tally.done(record_property, least=1200)


def test_a_bomb_is_not_inflated(tmp_path, record_property):
    """A few kilobytes that inflate to gigabytes are refused before they are there."""
    tally = Tally("bombs", "bomb|images-idx3|man1|ls")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(128)) + packer.flush()
    path = tmp_path / f"{IDX_FILES[0]}.gz"
    path.write_bytes(bomb)
    tally.run("IDX", lambda: read_idx(path))
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1" / "ls.1.gz").write_bytes(bomb)
    tally.run("manual page", lambda: list(page_passages(tmp_path)))
    assert tally.counts["refused"] == 2, tally.faults
    tally.done(record_property, least=2)
