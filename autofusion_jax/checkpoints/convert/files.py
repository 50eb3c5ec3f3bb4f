"""The tensors of a folder; one with pickles alone is refused."""

import os
from pathlib import Path

from autofusion_jax.checkpoints.safetensors_io import INDEX, SINGLE, StoredNetwork, open_safetensors

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_weights(folder: str | os.PathLike[str], name: str) -> StoredNetwork:
    """Open the safetensors file of that name in a folder, or the shards of its index.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is truncated or is not what it should be.
        ValueError: the folder has only pickled weights.
    """
    folder = Path(folder)
    if name == SINGLE and (folder / INDEX).is_file():
        return open_safetensors(folder)
    pickles = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]
    if pickles and not (folder / name).is_file():
        raise ValueError(
            f"load_pretrained: {folder} must hold {name}; it has only pickled weights ({pickles[0]}), which "
            "can run any code when they are read. If you trust them, load them with the library that "
            "wrote them and call its save_pretrained, which writes safetensors."
        )
    return open_safetensors(folder / name)
