"""Data of your own: archives, folders of images, other libraries' data sets, and what is said of bad ones."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.own import from_arrays, load_own
from data.registry import load_dataset

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (30, 8, 8), np.uint8), np.arange(30) % 3


def archive(path, **changes):
    np.savez(path, **{"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:], "y_test": Y[20:], **changes})
    return str(path)


def image_folder(folder, number=10):
    for k, name in enumerate(("cats", "dogs", "eels")):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(X[k == Y][:number]):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return str(folder)


def test_an_archive(tmp_path):
    data = load_dataset(archive(tmp_path / "mine.npz"), report=lambda line: None)
    assert data.num_classes == 3 and data.train_images.shape == (20, 8, 8, 1) and len(data.test_labels) == 10
    other = load_own(archive(tmp_path / "other.npz", y_test=Y[19:29]))
    assert len(data.sha256) == 64 and data.sha256 != other.sha256


def test_a_folder_of_images(tmp_path):
    data = load_own(image_folder(tmp_path / "all"))
    assert len(data.train_labels) == 24 and len(data.test_labels) == 6
    assert "24 for training and 6 for testing" in data.notes[0]
    pixels = {image.tobytes() for image in (*data.train_images, *data.test_images)}
    assert pixels == {image.tobytes() for image in X}
    for part in ("train", "test"):
        image_folder(tmp_path / "parts" / part, number=4)
    data = load_own(str(tmp_path / "parts"))
    assert len(data.train_labels) == len(data.test_labels) == 12 and not data.notes


def class_named(name):
    return type(name, (), {})()


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the package of Hugging Face: one data set with a training split alone."""

    class Rows(list):
        features = dict(zip(("img", "text", "label"), map(class_named, ("Image", "Value", "ClassLabel"))))

    def load(name):
        if name != "me/mine":
            raise RuntimeError(f"{name} is not on the hub\nand more")
        return {"train": Rows({"img": Image.fromarray(x), "label": y} for x, y in zip(X, Y))}

    module = types.ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_data_set_of_the_hub(hub):
    data = load_own("hf:me/mine")
    assert len(data.train_labels) == 24 and data.num_classes == 3 and data.notes
    with pytest.raises(FileNotFoundError, match="hf:me/yours cannot be loaded: me/yours is not on the hub$"):
        load_own("hf:me/yours")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="hf:mnist needs a package .*: pip install datasets"):
        load_own("hf:mnist")


def test_bad_data_is_one_line(tmp_path):
    mine = archive(tmp_path / "mine.npz")
    (tmp_path / "broken.npz").write_bytes(Path(mine).read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "mime.npz"): f"there is no .*mime.npz. Did you mean {mine}?",
        str(tmp_path / "broken.npz"): "broken.npz must be a NumPy archive",
        str(tmp_path / "empty"): "its subfolders must be two or more; got",
        archive(tmp_path / "a.npz", x_train=X[:19]): r"y_train must be integers \[19\]; got int64 \[20\]",
        archive(tmp_path / "c.npz", x_test=X[20:, :4]): r"x_test must be \[M, 8, 8\], as x_train is",
        "minst": "unknown data set 'minst'. Did you mean 'mnist'.* Or your own: a path to FILE.npz",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            load_dataset(name, report=lambda line: None)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"y_train and y_test must be all of 0 to k - 1.*; got \[1, 2, 3\]"):
        from_arrays("mine", X, Y + 1, X, Y + 1)
