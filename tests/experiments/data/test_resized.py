"""Data sets in the form of MNIST: by hand, and digits against their checksum."""

import dataclasses

import numpy as np
import pytest

from data.dataset import DamagedFile, join, rows_sha256
from data.registry import DATASETS, load_dataset
from data.resized import DIGITS_28, to_mnist_form


def test_luma_by_hand():
    """ITU-R 601: 0.299 red, 0.587 green, 0.114 blue; one colour stays one grey at any size."""
    images = np.zeros((4, 32, 32, 3), np.uint8)
    for channel in range(3):
        images[channel, ..., channel] = 200
    images[3] = 255
    greys = to_mnist_form(images)
    assert greys.shape == (4, 28, 28, 1) and greys.dtype == np.uint8
    assert [np.unique(grey).tolist() for grey in greys] == [[60], [117], [23], [255]]


def test_bilinear_by_hand():
    """Between the middles of two pixels values go up in a line, outside of them they stay."""
    image = np.zeros((1, 1, 2, 1), np.uint8)
    image[0, 0, 1, 0] = 255
    row = to_mnist_form(image)[0, 0, :, 0].astype(float)
    places = (np.arange(28) + 0.5) / 14 - 0.5
    np.testing.assert_allclose(row, 255 * np.clip(places, 0, 1), atol=1)


def test_digits_are_checked_and_can_be_joined_with_data_of_their_form(monkeypatch):
    digits = load_dataset("digits_28")
    plain = load_dataset("digits")
    assert digits.train_images.shape == (1437, 28, 28, 1) and "digits of scikit-learn" in digits.source
    assert rows_sha256(digits.test_images, digits.test_labels) == DIGITS_28.sha256["test"]
    assert np.bincount(digits.train_labels).tolist() == np.bincount(plain.train_labels).tolist()
    other = dataclasses.replace(digits, name="other")
    assert join([digits, other]).num_classes == 20
    turned = dataclasses.replace(DIGITS_28, convert=lambda images: to_mnist_form(images[:, ::-1]))
    monkeypatch.setitem(DATASETS, "digits_28", turned)
    with pytest.raises(
        DamagedFile, match="the train split of digits_28 from digits of scikit-learn, resized"
    ):
        load_dataset("digits_28")
