"""Corruptions: their form, that they are drawn by seed, and the values of two by hand."""

import numpy as np
import pytest

from data.corruptions import BLUR_LENGTH, CONTRAST, CORRUPTIONS, IMPULSES, corrupt

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 10, 14, 3), np.uint8)
DRAWN = {"motion_blur", "impulse_noise", "gaussian_noise", "spatter"}
"""Those in which chance has a part."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_form_and_chance(name, channels):
    images = IMAGES[..., :channels]
    before = images.copy()
    corrupted = corrupt(images, name, seed=0)
    assert corrupted.shape == images.shape and corrupted.dtype == np.uint8
    assert (images == before).all() and (corrupted != images).any((1, 2, 3)).all()
    assert (corrupt(images, name, seed=0) == corrupted).all()
    assert (corrupt(images, name, seed=1) != corrupted).any() == (name in DRAWN)


def test_contrast_by_hand():
    image = np.array([[0, 100], [200, 100]], np.uint8).reshape(1, 2, 2, 1)  # mean 100
    expected = [[100 - CONTRAST * 100, 100], [100 + CONTRAST * 100, 100]]
    assert corrupt(image, "contrast", seed=0)[0, ..., 0].tolist() == np.rint(expected).tolist()


def test_pixelate_by_hand():
    """A side of 10 pixels becomes 2, each the mean of five, then 10 again by the nearest."""
    image = np.zeros((1, 10, 10, 1), np.uint8)
    image[0, :, :2] = 150
    expected = [60] * 5 + [0] * 5
    assert corrupt(image, "pixelate", seed=0)[0, ..., 0].tolist() == [expected] * 10


def test_impulses_are_black_or_white_and_as_many_as_said():
    corrupted = corrupt(np.full((20, 30, 30, 1), 100, np.uint8), "impulse_noise", seed=0)
    assert set(np.unique(corrupted)) == {0, 100, 255}
    for value in (0, 255):
        assert np.mean(corrupted == value) == pytest.approx(IMPULSES / 2, abs=0.01)


def test_motion_blur_keeps_what_there_is_and_spreads_it_along_a_line():
    image = np.zeros((4, 21, 21, 1), np.uint8)
    image[:, 10, 10] = 255
    corrupted = corrupt(image, "motion_blur", seed=0).astype(float)
    assert corrupted.sum((1, 2, 3)) == pytest.approx(255, rel=0.1)
    lit = np.argwhere(corrupted[..., 0] > 0)
    assert np.abs(lit[:, 1:] - 10).max() <= BLUR_LENGTH // 2
    assert len({tuple(one.ravel()) for one in corrupted}) == 4  # a direction of its own


@pytest.mark.parametrize(
    ("images", "name", "message"),
    [
        (IMAGES, "contrst", "unknown corruption 'contrst'. Did you mean 'contrast'"),
        (IMAGES / 255, "contrast", r"images must be uint8 \[N, h, w, 1 or 3\]; got float64"),
        (IMAGES[0], "contrast", r"got uint8\[10, 14, 3\]"),
    ],
)
def test_bad_arguments(images, name, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, seed=0)
