"""Damaged files of every kind, by every reader: one line that names the file, and bounded memory."""

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from data import own
from data.cifar10 import read_binary_batches, read_png_package
from data.files import DamagedFile, read_json, read_npz, unpack_tar
from data.fortunes import quotations
from data.idx import read_idx
from data.man_pages import page_passages
from data.own import load_own
from pipeline.store import read_arrays

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def idx_bytes(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def png_bytes(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def npz_bytes(**arrays):
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def tar_bytes(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def write_cifar(folder, *, binary):
    """A small CIFAR in the one form or the other; one file of it is the sample."""
    rows = np.concatenate([[[3], [9]], RNG.integers(0, 256, (2, 3072))], 1).astype(np.uint8).tobytes()
    pixels = png_bytes(RNG.integers(0, 256, (2, 1024, 3), np.uint8))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / f"{name}.{'bin' if binary else 'png'}").write_bytes(rows if binary else pixels)
    for name in ("train_lables.json", "test_lables.json"):
        (folder / name).write_text(json.dumps([3, 9]))


PAGE = gzip.compress(b".TH X 1\n.PP\n" + b"some words of a page, and more of them\n" * 20)
ARRAYS = npz_bytes(x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
PICTURE = png_bytes(IMAGES[0])

PNG_TAIL = 25
"""The last chunk of a PNG, which holds nothing, and the checksums of the one before."""

READERS = {
    "idx": ("images", idx_bytes(IMAGES), lambda path: read_idx(path)),
    "idx gzipped": ("images.gz", gzip.compress(idx_bytes(IMAGES)), lambda path: read_idx(path)),
    "manual page": ("man1/page.1.gz", PAGE, lambda path: list(page_passages(path.parents[1]))),
    "cifar rows": ("test_batch.bin", None, lambda path: read_binary_batches(path.parent)),
    "cifar pixels": ("test_batch.png", None, lambda path: read_png_package(path.parent)),
    "cifar labels": ("test_lables.json", None, lambda path: read_png_package(path.parent)),
    "archive of arrays": ("kept.npz", ARRAYS, lambda path: read_npz(path)),
    "arrays of a run": ("drawn.npz", ARRAYS, lambda path: read_arrays(path)),
    "own archive": ("mine.npz", ARRAYS, lambda path: load_own(str(path))),
    "own images": ("mine/cat/1.png", PICTURE, lambda path: load_own(str(path.parents[1]))),
    "tar": ("package.tgz", tar_bytes({"package/a": b"a" * 2000}), lambda path: unpack_tar(path, path.parent)),
    "json": ("config.json", json.dumps({"a": list(range(99))}).encode(), lambda path: read_json(path)),
}
"""Kind -> name of a file, its content, and what reads it."""


@pytest.fixture(params=READERS)
def sample(request, tmp_path):
    """A good file, and its reader."""
    name, content, reader = READERS[request.param]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        write_cifar(tmp_path, binary=path.suffix == ".bin")
    else:
        path.write_bytes(content)
    if request.param == "own images":
        (path.parents[1] / "dog").mkdir()
        for number in range(4):
            (path.parents[1] / "dog" / f"{number}.png").write_bytes(PICTURE)
            (path.parent / f"{number + 2}.png").write_bytes(PICTURE)
    return path, reader


def attempt(path, reader):
    """Read a file that may be damaged; the error, or None. It names the file in one line."""
    try:
        reader(path)
    except ValueError as error:
        message = str(error)
    else:
        return None
    assert (str(path) in message or path.name == "mine.npz") and "\n" not in message
    assert "allow_pickle" not in message
    return message


def test_good_files_are_read(sample):
    path, reader = sample
    reader(path)


def test_files_cut_anywhere_are_named(sample):
    path, reader = sample
    content = path.read_bytes()
    tail = PNG_TAIL if path.suffix == ".png" else 1
    for end in {0, 1, *map(int, np.linspace(0, len(content) - tail, 25))}:
        path.write_bytes(content[:end])
        assert attempt(path, reader), end


def test_changed_bytes_are_named_or_do_no_harm(sample):
    """No error of another kind, whatever byte is changed."""
    path, reader = sample
    content = path.read_bytes()
    for place in {*range(min(40, len(content))), *map(int, RNG.integers(0, len(content), 60))}:
        changed = bytearray(content)
        changed[place] ^= int(RNG.integers(1, 256))
        path.write_bytes(bytes(changed))
        attempt(path, reader)


@pytest.mark.parametrize("junk", [b"\x80\x04N.", b"[" * 200_000, b"null", b"\0" * 3000, b"\xff" * 3000])
def test_other_content_is_named(sample, junk):
    path, reader = sample
    path.write_bytes(junk)
    assert attempt(path, reader) or path.suffix in (".json", ".npz") or not junk.strip(b"\0")


def header(*shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


@pytest.mark.parametrize(
    "head",
    [header(2**31, 2**31, 4), header(*[2**16] * 4), header(*[1] * 65), header(), b"\0\0\x0d\x01\0\0\0\1"],
)
def test_idx_headers_that_no_array_has(tmp_path, head):
    """Shapes whose product wraps to 0, more axes than arrays have, none, and numbers that are no bytes."""
    path = tmp_path / "images"
    path.write_bytes(head)
    with pytest.raises(DamagedFile, match="must be a whole IDX file of bytes"):
        read_idx(path)


BOMB = 2**27


@pytest.mark.parametrize("kind", ["idx gzipped", "manual page", "archive of arrays", "tar"])
def test_what_is_inflated_is_bounded(tmp_path, kind, monkeypatch):
    """A small file that would become 128 MB is refused before it has."""
    name, _, reader = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    zeros = bytes(BOMB)
    if kind == "archive of arrays":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", zeros)
        reader = lambda path: read_npz(path, most=2**20)  # noqa: E731
    elif kind == "tar":
        path.write_bytes(tar_bytes({"a": zeros}))
        reader = lambda path: unpack_tar(path, path.parent, most=2**20)  # noqa: E731
    else:
        path.write_bytes(gzip.compress(header(6, 8, 8) + zeros))
    del zeros
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFile, match=path.name):
            reader(path)
        assert tracemalloc.get_traced_memory()[1] < BOMB / 4
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("member", ["../out", "/tmp/out_of_the_archive"])
def test_archives_do_not_leave_their_folder(tmp_path, member):
    path = tmp_path / "in" / "package.tgz"
    path.parent.mkdir()
    path.write_bytes(tar_bytes({member: b"x"}))
    if member.startswith("/"):  # taken as a name inside, as tar does
        unpack_tar(path, path.parent)
        assert (path.parent / member[1:]).is_file()
    else:
        with pytest.raises(DamagedFile, match=r"package.tgz"):
            unpack_tar(path, path.parent)
    assert not (tmp_path / "out").exists()


def test_quotations_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("data.fortunes.MOST_OF_FILE", 100)
    (tmp_path / "zippy").write_text("x" * 200)
    with pytest.raises(DamagedFile, match="zippy must be .* more than 100 bytes"):
        list(quotations(tmp_path / "zippy"))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused(tmp_path, mode):
    """Pillow would clip them to 255 without a word."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        Image.fromarray(IMAGES[0].astype(kind) * 7).save(tmp_path / name / "x.tif")
    with pytest.raises(DamagedFile, match=rf"x.tif must be an image with 8 bits a channel; .*{mode}"):
        load_own(str(tmp_path))


def test_own_arrays_must_be_finite():
    x = IMAGES.astype(np.float32)
    x[2, 1, 1] = np.inf
    with pytest.raises(ValueError, match="mine: x_test must be finite"):
        own.from_arrays("mine", IMAGES.astype(np.float32), LABELS, x, LABELS)
