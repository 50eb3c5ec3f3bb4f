"""Quotations of the `fortune` program as text; the classes are its collections."""

from collections.abc import Iterator
from pathlib import Path

from data.dataset import Arrays, DatasetInfo, Package
from data.text import LENGTH, cut, text_arrays

COLLECTIONS = ("computers", "definitions", "knghtbrd", "men-women", "people", "politics", "songs-poems",
               "zippy")  # fmt: skip

MOST = 2000
"""Training passages of each class at most."""


def quotations(path: Path) -> Iterator[tuple[str, str]]:
    """The passages of a collection, whose quotations stand between lines of a `%`.

    Yields:
        A quotation and a passage of it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}")
    for quotation in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
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
    sha256={},
    package=Package("deb", ("fortunes",), "", "usr/share/games/fortunes", 1),
)
