"""Quotations of the `fortune` program as text; the classes are its collections."""

from collections.abc import Iterator
from pathlib import Path

from data.dataset import Arrays, DatasetInfo, Package
from data.files import opened, read_bounded, reading
from data.text import LENGTH, cut, text_arrays

COLLECTIONS = ("computers", "definitions", "knghtbrd", "men-women", "people", "politics", "songs-poems",
               "zippy")  # fmt: skip

MOST_OF_FILE = 2**24
"""Bytes of one collection at most."""

MOST = 2000
"""Training passages of each class at most."""


def quotations(path: Path) -> Iterator[tuple[str, str]]:
    """The passages of a collection, whose quotations stand between lines of a `%`.

    Yields:
        A quotation and a passage of it.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}")
    with reading(path, "a collection of quotations"), opened(path) as file:
        text = read_bounded(file, MOST_OF_FILE).decode(errors="replace")
    for quotation in text.split("\n%\n"):
        yield from ((quotation, passage) for passage in cut(quotation))


def read_fortunes(folder: Path) -> Arrays:
    """Passages of all `COLLECTIONS`; raises as `quotations` and `text_arrays`."""
    return text_arrays({name: quotations(folder / name) for name in COLLECTIONS}, most=MOST)


FORTUNES = DatasetInfo(
    name="fortunes",
    input_shape=(LENGTH,),
    num_classes=len(COLLECTIONS),
    files=COLLECTIONS,
    read_folder=read_fortunes,
    sha256={
        "train": "30ffcf2f7f12ac621814b66a923d6859ec5684a1f2097900bffe92cc92646f03",
        "test": "61aaa70210422150544682c4a511355f6814519ab2ecd95206b3b42abc08615a",
    },
    package=Package("deb", {"fortunes": "1:1.99.1-7.3"}, "usr/share/games/fortunes", 1),
)
