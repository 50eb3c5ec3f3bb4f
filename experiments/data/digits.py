"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: no download, for smoke runs."""

from pathlib import Path

import numpy as np

from data.dataset import Arrays, DatasetInfo

NUM_TRAIN = 1437
SPLIT_SEED = 0


def read_digits(_: Path) -> Arrays:
    """Read the digits from scikit-learn; a fixed seed takes 1,437 for training, 360 for testing."""
    from sklearn.datasets import load_digits  # its import takes two seconds, and few need it

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return {
        "train_images": images[train], "train_labels": labels[train],
        "test_images": images[test], "test_labels": labels[test],
    }  # fmt: skip


DIGITS = DatasetInfo(
    name="digits",
    input_shape=(8, 8, 1),
    num_classes=10,
    files=(),
    read_folder=read_digits,
    sha256={},
)
