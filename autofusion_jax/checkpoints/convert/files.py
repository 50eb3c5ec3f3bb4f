"""Files of a checkpoint folder besides tensors: its JSON; a folder with pickles alone is refused."""

import json
import os
from pathlib import Path
from typing import Any

from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import INDEX, StoredNetwork, open_safetensors

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it holds something else.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"load_pretrained: {file.parent} must be a folder with {file.name}; it has none."
        )
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"load_pretrained: {file} must be JSON; {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"load_pretrained: {file} must hold a JSON object; got {type(found).__name__}.")
    return found


def open_weights(folder: str | os.PathLike[str], name: str) -> StoredNetwork:
    """Open the safetensors file of that name in a folder, or the shards of its index.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is truncated or is not what it should be.
        ValueError: the folder has only pickled weights.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return open_safetensors(folder)
    pickles = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]
    if pickles and not (folder / name).is_file():
        raise ValueError(
            f"load_pretrained: {folder} must hold {name}; it has only pickled weights ({pickles[0]}), which "
            "can run any code when they are read. If you trust them, load them with the library that "
            "wrote them and call its save_pretrained, which writes safetensors."
        )
    return open_safetensors(folder / name)
