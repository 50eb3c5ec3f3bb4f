"""Readers of data sets that do not come as IDX files."""

import numpy as np
import pytest

from data import registry
from data.cifar10 import read_binary_batches
from data.dataset import DamagedFile

RNG = np.random.default_rng(0)


def test_cifar_binary_batches(tmp_path):
    image = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    rows = np.concatenate([np.array([[3], [9]], np.uint8), image.transpose(0, 3, 1, 2).reshape(2, -1)], 1)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(rows.tobytes())
    arrays = read_binary_batches(tmp_path)
    np.testing.assert_array_equal(arrays["test_images"], image)
    assert arrays["train_labels"].tolist() == [3, 9] * 5
    (tmp_path / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(DamagedFile, match="must be rows of 3073 bytes"):
        read_binary_batches(tmp_path)


def test_digits_need_no_download():
    dataset = registry.load_dataset("digits", report=lambda line: None)
    assert dataset.train_images.shape == (1437, 8, 8, 1) and dataset.test_images.shape == (360, 8, 8, 1)
    assert set(np.unique(dataset.train_labels)) == set(range(10))
