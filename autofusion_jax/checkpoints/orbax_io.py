"""Checkpoint folders: arrays by Orbax, a spec and metadata as JSON, a SHA-256 manifest."""

import contextlib
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from autofusion_jax.arguments import AnyPath, checked
from autofusion_jax.atomic import new_folder, standing
from autofusion_jax.extras import need
from autofusion_jax.json_reader import read_json
from autofusion_jax.symmetry.spec import PermSpec, spec_from_json
from autofusion_jax.trees import a_kind_of, flatten_by_path, is_number
from autofusion_jax.types import Params
from autofusion_jax.validation import require

ARRAYS, MANIFEST, META, SPEC = "arrays", "manifest.json", "meta.json", "spec.json"


class CheckpointError(ValueError):
    """An error of a file that exists but cannot be read or verified."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint folder, from `load`.

    Attributes:
        params: the pytree that was saved, leaves as numpy arrays.
        spec: the permutation spec (without an `apply_fn`), or None.
        meta: the metadata.
    """

    params: Params
    spec: PermSpec | None
    meta: dict[str, Any]


@checked
def save(
    path: AnyPath,
    params: Params,
    *,
    spec: PermSpec | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder, never in part; a checkpoint that is there is replaced.

    At every moment `load` finds the old one or the new one, even if the process is killed.

    Args:
        path: the folder to write; its parents are made.
        params: a pytree of arrays in dicts and lists.
        spec: the permutation spec, saved beside them.
        meta: anything that JSON can hold, and arrays, which become lists.

    Returns:
        The path.

    Raises:
        MissingExtra: Orbax is not installed.
        ValueError: two leaves have one path, or a leaf is no number (a random key, a word).
        FileExistsError: the folder is there and is no checkpoint.
        OSError: the folder cannot be written, or the disk is full.
    """
    need("orbax.checkpoint", what="af.save")
    for name, leaf in flatten_by_path(params).items():
        require(
            is_number(leaf), "save", f"params[{name!r}]", "an array of numbers", a_kind_of(leaf),
            "Of a random key give jax.random.key_data; leave out what is no number.",
        )  # fmt: skip
    target = Path(path).absolute()
    texts = {META: json.dumps(meta or {}, indent=2, sort_keys=True, default=_as_list)}
    if spec is not None:
        texts[SPEC] = spec.to_json()
    with new_folder(target) as work:
        if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise FileExistsError(f"save: path must be a new folder or a checkpoint; {target} holds others.")
        _write_arrays(work / ARRAYS, jax.tree.map(np.asarray, params))
        for name, text in texts.items():
            (work / name).write_text(text, encoding="utf-8")
        (work / MANIFEST).write_text(json.dumps(_checksums(work), indent=2, sort_keys=True))
    return target


@checked
def load(path: AnyPath, *, like: Params | None = None) -> Checkpoint:
    """Read a checkpoint folder and verify every file of it against its manifest.

    Args:
        path: the folder.
        like: a pytree of the structure to restore; needed where it is more than dicts and
            lists (an optimizer's state).

    Returns:
        Parameters, spec and metadata.

    Raises:
        MissingExtra: Orbax is not installed.
        FileNotFoundError: there is no checkpoint at `path`.
        CheckpointError: a file is missing, truncated or changed; names it.
    """
    need("orbax.checkpoint", what="af.load")
    while True:
        folder = standing(path)
        seen = _identity(folder)
        try:
            return _load(folder, like)
        except (CheckpointError, OSError):
            if _identity(standing(path)) == seen:
                raise
            # A writer has replaced the folder while it was read: read the new one.


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _load(folder: Path, like: Params | None) -> Checkpoint:
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"load: {folder} must be a checkpoint folder; it has no {MANIFEST}.")
    _check_manifest(folder)
    spec_file = folder / SPEC
    spec = spec_from_json(read_json(spec_file, "load", CheckpointError)) if spec_file.is_file() else None
    meta = read_json(folder / META, "load", CheckpointError, finite=False)
    meta.mapping()
    try:
        params = _read_arrays(folder / ARRAYS, None if like is None else jax.tree.map(np.asarray, like))
    except Exception as error:  # orbax raises many kinds, with pages of text
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"load: {folder} cannot be read by orbax: {reason}") from error
    return Checkpoint(jax.tree.map(np.asarray, params), spec, meta.value)


def _write_arrays(path: Path, params: Params) -> None:
    import orbax.checkpoint as ocp  # imports for a second: only those who save pay for it

    try:
        with _quiet_orbax(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(path, args=ocp.args.StandardSave(params))
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        # Its message is a page of text around what the system said.
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


def _read_arrays(path: Path, like: Params | None) -> Params:
    import orbax.checkpoint as ocp

    with _quiet_orbax(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.StandardRestore(like))


def _as_list(value: Any) -> Any:
    """An array as JSON holds it."""
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        raise TypeError(f"save: meta must be what JSON can hold, or arrays; got a {type(value).__name__}.")
    return np.asarray(value).tolist()


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): sha256(p) for p in files}


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_manifest(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST, "load", CheckpointError).mapping()
    expected = {name: digest.text() for name, digest in manifest.items()}
    found = _checksums(folder)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not in the manifest or was changed"
            raise CheckpointError(
                f"load: {folder / name} {what} (SHA-256 differs from {MANIFEST}). The checkpoint is "
                f"corrupt: remove {folder} and run again."
            )


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keep orbax's notes, and its tracebacks beside an error, out of the user's terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
