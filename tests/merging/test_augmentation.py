"""What augmentation does to images, and that it leaves all else alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.merging.augmentation import MAX_ANGLE, MAX_MOVE, MAX_SHEAR, MAX_STRETCH, augmented

SIZE = 21
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2


def test_shifts_move_images_and_nothing_else():
    x = jnp.arange(2 * 6 * 6.0).reshape(2, 6, 6, 1)
    seen = set()
    for seed in range(30):
        for before, after in zip(x, augmented(jax.random.key(seed), x, "shift")):
            dy, dx = next(
                (dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                if np.array_equal(after[1:-1, 1:-1], np.roll(before, (dy, dx), (0, 1))[1:-1, 1:-1])
            )  # fmt: skip
            seen.add((dy, dx))
    assert len(seen) == 9
    np.testing.assert_array_equal(augmented(jax.random.key(0), x, "none"), x)
    tokens = jnp.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(augmented(jax.random.key(0), tokens, "affine"), tokens)
    flat = x.reshape(2, -1)
    np.testing.assert_array_equal(augmented(jax.random.key(0), flat, "shift"), flat)


def matrices(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Where affine changes read from, off two ramps: matrices `[num, 2, 2]` and moves `[num, 2]`."""
    ramps = jnp.asarray(np.stack([ROWS, COLUMNS], -1), jnp.float32)
    seen = np.asarray(augmented(jax.random.key(0), jnp.tile(ramps, (num, 1, 1, 1)), "affine"))
    inside = (abs(ROWS) < 5) & (abs(COLUMNS) < 5)
    known = np.stack([ROWS[inside], COLUMNS[inside], np.ones(inside.sum())], -1)
    found, residuals, *_ = np.linalg.lstsq(known, np.moveaxis(seen[:, inside], 0, 1).reshape(len(known), -1))
    assert residuals.max() < 1e-8  # what is read is affine in the place
    found = found.reshape(3, num, 2)
    return np.moveaxis(found[:2], (0, 1, 2), (2, 0, 1)), found[2]


@pytest.mark.slow
def test_affine_changes_keep_their_ranges_and_fill_them():
    found, move = matrices(400)
    assert 0.95 * MAX_MOVE * SIZE < abs(move).max() <= MAX_MOVE * SIZE * (1 + 1e-5)
    angle = np.arctan2(-found[:, 0, 1], found[:, 0, 0])  # the first row is stretched, not sheared
    stretch = np.hypot(found[:, 0, 0], found[:, 0, 1]) - 1
    assert 0.95 * MAX_ANGLE < abs(angle).max() <= MAX_ANGLE + 1e-5
    assert 0.95 * MAX_STRETCH < abs(stretch).max() <= MAX_STRETCH + 1e-5
    shear = found[:, 1, 0] / found[:, 1, 1] - np.tan(angle)
    assert 0.8 * MAX_SHEAR < abs(shear).max() <= MAX_SHEAR / np.cos(MAX_ANGLE) + 1e-5
    for values in (angle, stretch, shear, *move.T):
        assert abs(values.mean()) < 0.15 * abs(values).max()


@pytest.mark.slow
def test_affine_changes_are_reproducible_and_differ():
    x = jax.random.uniform(jax.random.key(1), (3, 8, 10, 2))
    once, again = (augmented(jax.random.key(2), x, "affine") for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert once.shape == x.shape and once.dtype == x.dtype
    assert float(once.min()) >= 0 and float(once.max()) <= 1
    same = augmented(jax.random.key(2), jnp.tile(x[:1], (2, 1, 1, 1)), "affine")
    assert np.any(same[0] != same[1])


@pytest.mark.parametrize("augment", ["shift", "affine", "none"])
def test_what_is_no_image_stays(augment):
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(augmented(jax.random.key(0), x, augment), x)
