"""Merging from files to a file, a part of the networks at a time."""

import errno
import itertools
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.arguments import AnyPath, checked, list_of, path
from autofusion_jax.atomic import LONGEST_NAME
from autofusion_jax.checkpoints.safetensors_io import (
    StoredLeaf,
    StoredNetwork,
    open_safetensors,
    stored_order,
    write_safetensors,
)
from autofusion_jax.merging.method import MergeTask, Method, Named
from autofusion_jax.merging.progress import reported
from autofusion_jax.merging.registry import METHODS, as_method
from autofusion_jax.merging.sequence import merge_networks
from autofusion_jax.merging.streaming import BLOCK, can_stream, streamed
from autofusion_jax.precision import needs_64_bits
from autofusion_jax.trees import all_finite, check_finite, check_same_structure
from autofusion_jax.validation import require

ALIGNMENT = 64
"""Bytes; what jax asks of memory that it does not copy."""


@checked
def merge_files(
    paths: Annotated[Iterable[AnyPath], list_of(path(), or_iterator=True)],
    out: AnyPath,
    *,
    base: AnyPath | None = None,
    method: Named = "average",
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Path:
    """Merge networks in safetensors files into one, without having them in memory.

    A method whose result depends entry by entry on the networks sees blocks of 262,144 entries; one
    that looks at whole leaves sees a leaf of each network at a time; TIES goes over the files before
    to find its thresholds. The result is what `merge_many` gives. Matrices are taken as they are stored:
    for wudi, and for methods with `convs=True`, the last axis is that of the outputs, as in flax.

    Args:
        paths: a safetensors file for each network, or a folder with `model.safetensors`, or with
            `model.safetensors.index.json` and its shards; all of the same names, shapes and dtypes.
        out: the safetensors file to write; it is there when it is whole, and not before.
        base: the network that all were fine-tuned from, likewise, for methods that need one.
        method: a name, or a `Method` from `methods.NAME(...)`, that takes entries or leaves by themselves.
        overwrite: replace a file that is there, even one that is merged.
        progress: show a progress bar. The logger `autofusion_jax` says the same, shown or not.
        options: options of the method, if it is given by name.

    Returns:
        The path of the file written: the first network's names, dtypes, metadata, and its leaves that are
        not floats.

    Raises:
        FileExistsError: `out` is there, and `overwrite` is not given.
        FileNotFoundError: a file is missing, also one that an index names.
        CheckpointError: a file is truncated or corrupt, or is not what its checksum says.
        OSError: `out` is in a folder that cannot be written or has no room for it; said before the merge.
        ValueError: networks do not fit one another or hold NaN, an option is out of its range, the method
            needs whole networks, the merged network is not finite, or `out` is a folder; nothing is written.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import load_file, save_file
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, value in {"a": 1.0, "b": 5.0}.items():
        ...     save_file({"w": np.full(2, value, np.float32)}, folder / f"{name}.safetensors")
        >>> paths = [folder / "a.safetensors", folder / "b.safetensors"]
        >>> out = merge_files(paths, folder / "out.safetensors", method="weighted_average", weights=[3, 1])
        >>> load_file(out)["w"].tolist()
        [2.0, 2.0]
    """
    require(
        "promote" not in options, "merge_files", "options", "those of the method", "promote",
        "Files of different dtypes are not converted: load the networks and call merge_many(promote=True).",
    )  # fmt: skip
    chosen = as_method(method, options)
    if not can_stream(chosen):
        known = ", ".join(sorted(name for name, factory in METHODS.items() if can_stream(factory())))
        require(
            False, "merge_files", "method", "one that takes entries or leaves by themselves", chosen.name,
            f"These do: {known}. For others load the networks and call merge_many.",
        )  # fmt: skip
    _check_out(Path(out), overwrite)
    paths = list(paths)
    require(len(paths) >= 2, "merge_files", "paths", "two or more files or folders", len(paths))
    files = _Files([open_safetensors(p) for p in paths], None if base is None else open_safetensors(base))
    _check_structure(files.all)
    leaves = files.networks[0].leaves
    if needs_64_bits(leaves.values()):
        with jax.enable_x64(True):  # arithmetic on leaves alone, of which 64 bits make no other program
            return merge_files(paths, out, base=base, method=chosen, overwrite=overwrite, progress=progress)
    _check_room(Path(out), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values()))
    for network in files.all:
        network.verify()
    chosen = streamed(chosen, lambda: map(files.task, filter(_is_float, _parts(leaves, "entry"))))
    parts = list(_parts(leaves, chosen.granularity))
    with (
        reported(f"{chosen.name}, {len(paths)} files", progress) as on_progress,
        write_safetensors(out, leaves, files.networks[0].metadata, overwrite=overwrite) as append,
    ):
        for number, part in enumerate(parts, 1):
            append(_merged(chosen, files, part) if _is_float(part) else leaves[part[0].name].read())
            if on_progress is not None:
                on_progress(number, len(parts))
    return Path(out)


def _check_out(out: Path, overwrite: bool) -> None:
    """Raise an error if the output is a folder, or a file that is not to be replaced."""
    require(
        not out.is_dir(), "merge_files", "out", "a file", f"the folder {out}",
        f"Name a file in it, such as {out / 'model.safetensors'}.",
    )  # fmt: skip
    if out.exists() and not overwrite:
        raise FileExistsError(f"merge_files: out must be a new file; {out} is there. Give overwrite=True.")


def _check_room(out: Path, num_bytes: int) -> None:
    """Raise OSError if the folder of the output, or the one it would be made in, cannot take so much more."""
    length = len(os.fsencode(out.resolve().name))  # of what a link leads to
    require(
        length <= LONGEST_NAME, "merge_files", "the name of out", f"of {LONGEST_NAME} bytes or fewer", length
    )
    folder = next(parent for parent in out.resolve().parents if parent.exists())
    require(folder.is_dir(), "merge_files", "out", "in a folder", f"the file {folder} in its path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"merge_files: out must be in a folder that can be written; {folder} can not.")
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        message = f"merge_files: out needs {num_bytes:,} bytes; {free:,} are free"
        raise OSError(errno.ENOSPC, message, str(folder))


class _Stretch(NamedTuple):
    """Entries of one leaf, `first` and so on; all of them with their shape, or some as one axis."""

    name: str
    first: int
    shape: tuple[int, ...]
    dtype: np.dtype


Part = list[_Stretch]
"""Stretches of one dtype that are merged at once."""


class _Files:
    """Networks in files, read into memory that is used again for the next part."""

    def __init__(self, networks: list[StoredNetwork], base: StoredNetwork | None) -> None:
        self.networks, self.base = networks, base
        self.all = networks if base is None else [base, *networks]
        self._rows = _aligned(len(self.all), ALIGNMENT)

    def task(self, part: Part) -> MergeTask:
        """Networks of one leaf: a part of the real ones. Be done with it before asking for the next."""
        num_bytes = sum(math.prod(stretch.shape) for stretch in part) * part[0].dtype.itemsize
        if num_bytes > self._rows.shape[1]:
            self._rows = _aligned(len(self.all), num_bytes)
        models = tuple(_read(network, part, row[:num_bytes]) for network, row in zip(self.all, self._rows))
        origin, models = (None, models) if self.base is None else (models[0], models[1:])
        return MergeTask(models, base=origin)


def _aligned(rows: int, num_bytes: int) -> np.ndarray:
    """Bytes `[rows, num_bytes or more]` of which every row begins where jax takes it without a copy."""
    width = -(-num_bytes // ALIGNMENT) * ALIGNMENT
    raw = np.empty(rows * width + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + rows * width].reshape(rows, width)


def _read(network: StoredNetwork, part: Part, raw: np.ndarray) -> dict[str, Array]:
    values, start = raw.view(part[0].dtype), 0
    for stretch in part:
        size = math.prod(stretch.shape)
        network.leaves[stretch.name].read_into(values[start : start + size], stretch.first)
        start += size
    return {"part": jax.device_put(values.reshape(part[0].shape) if len(part) == 1 else values)}


def _is_float(part: Part) -> bool:
    return jnp.issubdtype(part[0].dtype, jnp.inexact)


def _parts(leaves: Mapping[str, StoredLeaf], granularity: str) -> Iterator[Part]:
    """Cut networks into parts, in the order in which they are written; empty leaves are left out."""
    filled = [name for name in stored_order(leaves) if leaves[name].size]
    for dtype, names in itertools.groupby(filled, lambda name: leaves[name].dtype):
        whole = [_Stretch(name, 0, leaves[name].shape, dtype) for name in names]
        yield from (
            _blocks(whole) if granularity == "entry" and _is_float(whole) else ([part] for part in whole)
        )


def _blocks(whole: Part) -> Iterator[Part]:
    """Cut and join leaves to parts of `BLOCK` entries each, but the last: so all are one program."""
    part, room = [], BLOCK
    for leaf in whole:
        first, size = 0, math.prod(leaf.shape)
        while first < size:
            take = min(room, size - first)
            part.append(leaf._replace(first=first, shape=(take,)))
            first, room = first + take, room - take
            if not room:
                yield part
                part, room = [], BLOCK
    if part:
        yield part


def _merged(method: Method, files: _Files, part: Part) -> np.ndarray:
    """The merged entries of a part, checked: as in `merge_repeats`."""
    task = files.task(part)
    if not method.propagates_nan:
        _check_values(files, part, task)
    merged = np.asarray(merge_networks(method, task, jax.random.key(0)).params["part"], part[0].dtype)
    if not all_finite(merged):
        _check_values(files, part, task)
        _say_overflow(method.name, part, merged.reshape(-1))
    return merged


def _say_overflow(name: str, part: Part, merged: np.ndarray) -> None:
    """Raise ValueError naming the first leaf that is not finite, though those of the networks are."""
    start = 0
    for stretch in part:
        size = math.prod(stretch.shape)
        bad = size - int(np.isfinite(merged[start : start + size]).sum())
        require(
            not bad, name, f"the merged {stretch.name!r}", "finite",
            f"{bad} numbers of {size} that {stretch.dtype} does not hold",
            "The networks are finite: give them in a wider dtype, or other options.",
        )  # fmt: skip
        start += size


def _check_values(files: _Files, part: Part, task: MergeTask) -> None:
    """Raise ValueError naming the file and the first leaf of a part that hold a NaN or an infinity."""
    if not all_finite([task.base, task.models]):
        for network in files.all:
            for stretch in part:
                check_finite(
                    "merge_files", str(network.path), {stretch.name: network.leaves[stretch.name].read()}
                )


def _check_structure(networks: Sequence[StoredNetwork]) -> None:
    """Raise ValueError if networks differ."""
    first, *others = [
        {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in network.leaves.items()}
        for network in networks
    ]
    for network, other in zip(networks[1:], others):
        names = str(networks[0].path), str(network.path)
        check_same_structure("merge_files", names, first, other, "Nothing is converted here; merge_many can.")
