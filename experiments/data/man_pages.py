"""Manual pages as text; the classes are languages, or sections of the manual."""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.dataset import Arrays, ChecksumError, DatasetInfo, Package
from data.roff import paragraphs
from data.text import LENGTH, cut, text_arrays

LANGUAGES = {"de": "de", "en": "", "es": "es", "fr": "fr", "it": "it", "nl": "nl", "pl": "pl",
             "pt": "pt_BR", "ru": "ru"}  # fmt: skip
"""Class -> folder of its pages; the English ones lie in that of the manual itself."""

SECTIONS = ("2", "3", "5", "7")
"""System calls; functions; files; all that is none of a command, a call, a file or a device."""

FOLDER = "usr/share/man"
MOST = 2000
"""Training passages of each class at most."""

ENGLISH = ("manpages", "manpages-dev")


def page_passages(folder: Path) -> Iterator[tuple[str, str]]:
    """The passages of the pages under a folder of sections: `man1/ls.1.gz` and so on.

    Yields:
        The name of a page, the same in every language, and a passage.

    Raises:
        FileNotFoundError: there are no pages.
        ChecksumError: a page is damaged.
    """
    pages = sorted(path for path in folder.glob("man[1-9]/*.gz") if not path.is_symlink())
    if not pages:
        raise FileNotFoundError(f"{folder} lacks man1/*.gz and the like")
    for page in pages:
        try:
            source = gzip.decompress(page.read_bytes()).decode(errors="replace")
        except (OSError, EOFError) as error:
            raise ChecksumError(
                f"load_dataset: {page} must be a gzipped page; {error}. Remove it and run again."
            ) from error
        for paragraph in paragraphs(source):
            yield from ((page.name, passage) for passage in cut(paragraph))


def read_languages(folder: Path) -> Arrays:
    """Passages of pages in all of `LANGUAGES`; raises as `page_passages` and `text_arrays`."""
    return text_arrays({name: page_passages(folder / place) for name, place in LANGUAGES.items()}, most=MOST)


def read_sections(folder: Path) -> Arrays:
    """Passages of English pages of all `SECTIONS`; raises as `page_passages` and `text_arrays`."""
    found: dict[str, list[tuple[str, str]]] = {section: [] for section in SECTIONS}
    for page, passage in page_passages(folder):
        section = page.removesuffix(".gz").rpartition(".")[2]
        if section in found:
            found[section].append((page, passage))
    return text_arrays(found, most=MOST)


def _packages(names: Sequence[str], megabytes: int) -> Package:
    return Package("deb", tuple(names), "", FOLDER, megabytes)


MAN_LANGUAGE = DatasetInfo(
    name="man_language",
    input_shape=(LENGTH,),
    num_classes=len(LANGUAGES),
    files=("man1/*.gz", *(f"{place}/man1/*.gz" for place in LANGUAGES.values() if place), "and the like"),
    read_folder=read_languages,
    sha256={},
    package=_packages([*ENGLISH, *(f"manpages-{place.lower().replace('_', '-')}"
                                   for place in LANGUAGES.values() if place)], 14),
)  # fmt: skip

MAN_SECTION = DatasetInfo(
    name="man_section",
    input_shape=(LENGTH,),
    num_classes=len(SECTIONS),
    files=tuple(f"man{section}/*.{section}.gz" for section in SECTIONS),
    read_folder=read_sections,
    sha256={},
    package=_packages(ENGLISH, 4),
)
