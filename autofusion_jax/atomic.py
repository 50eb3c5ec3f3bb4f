"""Files and folders that are written whole or not at all, by one process at a time.

A writer works beside its target under the name `.NAME.part`, holds the lock `.NAME.lock`, flushes to disk,
and renames. The system gives up the lock of a process that has died, so the next writer of the same target
knows that what it finds under these names is of a killed one, and removes it. On Windows there is no lock.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

LOGGER = logging.getLogger("autofusion_jax")
StrPath = str | os.PathLike[str]
_HELD = threading.local()
"""`paths`: those whose locks this thread holds."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 240
"""Bytes; longer names have no room for what is put around them."""


@contextlib.contextmanager
def locked(path: StrPath, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder, which need not exist; its parent must.

    What a killed writer of it has left is removed. A thread that holds it may write it, and lock it again.
    The lock of a folder is not that of its files.

    Args:
        path: what is locked.
        wait: wait for another process (or thread) that holds it, and say so in the log.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False; names the path and the process.
        OSError: the folder cannot be written, or its file system knows no locks.
    """
    target, held = _real(path), _HELD.__dict__.setdefault("paths", set())
    if target in held:
        yield
        return
    lock = _beside(target, "lock")
    with _naming(target):
        descriptor = None if os.name == "nt" else _lock(lock, target, wait)
    held.add(target)
    try:
        _settle(target)
        yield
    finally:
        held.discard(target)
        if descriptor is not None:
            # Removed first: whoever waits for it finds that it is not the one at this path any more.
            lock.unlink(missing_ok=True)
            os.close(descriptor)


@contextlib.contextmanager
def new_file(path: StrPath, *, overwrite: bool = True) -> Iterator[Path]:
    """Write a file: the block writes the one that is yielded, which then takes the place of `path`.

    If the block raises, the file that was there stays. A file that is replaced hands on its permissions, a
    new one has those of the umask; a symbolic link is followed.

    Args:
        path: the file; its parents are made.
        overwrite: replace a file that is there.

    Yields:
        An empty file beside it, for the block to write.

    Raises:
        FileExistsError: the file is there, and `overwrite` is False.
        IsADirectoryError: a folder is there.
        OSError: it cannot be written, or the disk is full; names `path`.
    """
    with _replacing(path, overwrite) as (target, part):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "must be a file", str(target))
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if target.exists() else 0o666))
        yield part
        _sync(part)
        if target.exists():
            part.chmod(target.stat().st_mode)
        os.replace(part, target)


@contextlib.contextmanager
def new_folder(path: StrPath, *, overwrite: bool = True) -> Iterator[Path]:
    """Write a folder: the block fills the one that is yielded, which then takes the place of `path`.

    As `new_file`. Two renames replace a folder that is there; between them it is at `standing(path)` only.

    Yields:
        An empty folder beside it, for the block to fill.

    Raises:
        FileExistsError: something is there, and `overwrite` is False.
        NotADirectoryError: a file is there.
        OSError: it cannot be written, or the disk is full; names `path`.
    """
    with _replacing(path, overwrite) as (target, part):
        if target.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "must be a folder", str(target))
        part.mkdir(mode=0o700 if target.exists() else 0o777)
        yield part
        for folder, _, files in os.walk(part):
            for name in files:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        if target.exists():
            part.chmod(target.stat().st_mode)
            os.replace(target, _beside(target, "old"))
        os.replace(part, target)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all, flushed to disk; see `new_file`."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8")


def standing(path: StrPath) -> Path:
    """Where a folder is: at `path`, or where a writer that was killed while it replaced it has put it."""
    target = _real(path)
    old = _beside(target, "old")
    return old if old.exists() and not target.exists() else target


@contextlib.contextmanager
def _replacing(path: StrPath, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """The real path of a target and the name for its next content, locked, with nothing left over."""
    target = _real(path)
    with _naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if target.exists() and not overwrite:
                raise FileExistsError(errno.EEXIST, "it is there already", str(target))
            try:
                yield target, _beside(target, "part")
            finally:
                _settle(target)
            _sync(target.parent)


def _settle(target: Path) -> None:
    """Put a folder back that was moved aside for one that never came; remove all else that is not whole."""
    part, old = _beside(target, "part"), _beside(target, "old")
    if old.exists() and not target.exists():
        os.replace(old, target)
    for leftover in (part, old):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _lock(lock: Path, target: Path, wait: bool) -> int:
    """An open descriptor of the file at `lock`, locked."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _hold(descriptor, target, wait)
            # The one who held it has removed it: this one is nobody's, and others may hold the next.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, b"%d" % os.getpid())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _hold(descriptor: int, target: Path, wait: bool) -> None:
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = f"process {os.pread(descriptor, 20, 0).decode(errors='replace') or 'unknown'}"
        if not wait:
            raise BlockingIOError(errno.EAGAIN, f"{owner} is at work on it", str(target)) from None
        LOGGER.warning("%s: waits for %s, which is writing it.", target, owner)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise OSError(error.errno, "its file system must know locks (flock)", str(target)) from error


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _real(path: StrPath) -> Path:
    return Path(os.path.realpath(path))


def _beside(target: Path, kind: str) -> Path:
    """The name for a part, a lock or an old folder of a target."""
    name = os.fsencode(target.name)
    short = target.name if len(name) < LONGEST_NAME else hashlib.sha256(name).hexdigest()
    return target.with_name(f".{short}.{kind}")


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Let errors of files beside the target, and of a full disk, name the target."""
    try:
        yield
    except OSError as error:
        ours = [str(_beside(target, kind)) for kind in ("part", "lock", "old")]
        if error.filename is None:
            found = error.errno in NO_ROOM
        else:
            found = any(str(error.filename).startswith(name) for name in ours)
        if found:
            error.filename = str(target)
            del error.filename2
        raise
