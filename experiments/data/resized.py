"""Data sets brought to the form of MNIST, 28 x 28 grey pixels, so that they can be joined with it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.cifar10 import CIFAR10
from data.dataset import DatasetInfo
from data.digits import DIGITS

SIDE = 28


def to_mnist_form(images: UInt8[np.ndarray, "N h w c"]) -> UInt8[np.ndarray, "N 28 28 1"]:
    """Bring images to 28 x 28 grey pixels with Pillow: its luma of colours, its bilinear filter.

    Args:
        images: of one channel or three.

    Example:
        >>> to_mnist_form(np.full((1, 8, 8, 1), 7, np.uint8)).shape
        (1, 28, 28, 1)
    """
    resized = np.empty((len(images), SIDE, SIDE, 1), np.uint8)
    for target, image in zip(resized, images):
        grey = Image.fromarray(image[..., 0]) if image.shape[-1] == 1 else Image.fromarray(image).convert("L")
        target[..., 0] = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return resized


def _resized(base: DatasetInfo, sha256: dict[str, str]) -> DatasetInfo:
    return DatasetInfo(
        f"{base.name}_{SIDE}", (SIDE, SIDE, 1), base.num_classes, base.files, base.read_folder, sha256,
        base=base, convert=to_mnist_form,
    )  # fmt: skip


CIFAR10_28 = _resized(
    CIFAR10,
    {
        "train": "4f926b70cfaeec788028ed918eda3ce19d1e798e37b7439dc22219a6caf77b96",
        "test": "1f9b093170433627d9ed8bb148800e6a9a8c5bf78d222a3205aa451564686349",
    },
)
DIGITS_28 = _resized(
    DIGITS,
    {
        "train": "f3b7c0ba9408602688601f03c5dde065af872190a1a10517009162b33ddd4600",
        "test": "c319728d73963b3284f70872275c7c510f9495672b17e5b6c071464b02c83cd6",
    },
)
