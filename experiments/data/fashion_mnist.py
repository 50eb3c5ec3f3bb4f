"""Fashion-MNIST: 28 x 28 pictures of clothes (Xiao, Rasul, Vollgraf, 2017)."""

from data.dataset import DatasetInfo, Package
from data.idx import IDX_FILES, read_idx_folder

FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    input_shape=(28, 28, 1),
    num_classes=10,
    files=IDX_FILES,
    read_folder=read_idx_folder,
    sha256={
        "train": "a9263a2c6fe4f8344082fdb669906b02a934d0dbf3eaf6c0a051ce9355ca0fc7",
        "test": "7ff84c2972beeeeb4f29d3b5752cc6bc495abdeb11a986df59929fa92f1fa251",
    },
    tfds_name="fashion_mnist",
    package=Package("deb", {"dataset-fashion-mnist": ""}, "usr/share/datasets/fashion-mnist", 31),
)
