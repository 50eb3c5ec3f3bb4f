"""KMNIST: 28 x 28 cursive Japanese characters (Clanuwat et al., 2018)."""

from data.dataset import DatasetInfo
from data.idx import IDX_FILES, read_idx_folder

KMNIST = DatasetInfo(
    name="kmnist",
    input_shape=(28, 28, 1),
    num_classes=10,
    files=IDX_FILES,
    read_folder=read_idx_folder,
    sha256={"test": "8a7151b6a28a2303faa7858fd78b09709d87ffbe24ff8b19d212fc4b7472b8fe"},
    tfds_name="kmnist",
    split_test=8000,
    credit='"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset", '
    "doi:10.20676/00000341, CC BY-SA 4.0",
)
