"""Checkpoint folders: arrays by Orbax, a spec and metadata as JSON, a SHA-256 manifest."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from autofusion_jax.extras import need
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params

ARRAYS, MANIFEST, META, SPEC = "arrays", "manifest.json", "meta.json", "spec.json"


class CheckpointError(ValueError):
    """An error of a checkpoint that exists but cannot be read or verified."""


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


def save(
    path: str | os.PathLike[str],
    params: Params,
    *,
    spec: PermSpec | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder, never in part; one that is there is replaced.

    Args:
        path: the folder to write; its parents are made.
        params: a pytree of arrays in dicts and lists.
        spec: the permutation spec, saved beside them.
        meta: anything that JSON can hold, and arrays, which become lists.

    Returns:
        The path.

    Raises:
        MissingExtra: Orbax is not installed.
        OSError: the folder cannot be written.
    """
    need("orbax.checkpoint", what="af.save")
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write_arrays(work / ARRAYS, jax.tree.map(np.asarray, params))
        (work / META).write_text(json.dumps(meta or {}, indent=2, sort_keys=True, default=_as_list))
        if spec is not None:
            (work / SPEC).write_text(spec.to_json())
        (work / MANIFEST).write_text(json.dumps(_checksums(work), indent=2, sort_keys=True))
        work.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.replace(target, old / target.name)
            try:
                os.replace(work, target)
            except OSError:
                os.replace(old / target.name, target)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def load(path: str | os.PathLike[str], *, like: Params | None = None) -> Checkpoint:
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
    folder = Path(path).absolute()
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"load: {folder} must be a checkpoint folder; it has no {MANIFEST}.")
    _check_manifest(folder)
    try:
        params = _read_arrays(folder / ARRAYS, None if like is None else jax.tree.map(np.asarray, like))
    except Exception as error:  # orbax raises many kinds, with pages of text
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"load: {folder} cannot be read by orbax: {reason}") from error
    spec_file = folder / SPEC
    spec = PermSpec.from_json(spec_file.read_text()) if spec_file.is_file() else None
    return Checkpoint(jax.tree.map(np.asarray, params), spec, json.loads((folder / META).read_text()))


def _write_arrays(path: Path, params: Params) -> None:
    import orbax.checkpoint as ocp  # imports for a second: only those who save pay for it

    with _quiet_orbax(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.StandardSave(params))


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
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _check_manifest(folder: Path) -> None:
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except ValueError as error:
        raise CheckpointError(f"load: {folder / MANIFEST} must be JSON; {error}. Remove {folder}.") from error
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
    """Keep orbax's notes on defaults out of the user's terminal."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
