"""Manual pages as text; the classes are languages, or sections of the manual."""

from collections.abc import Iterator
from pathlib import Path

from data.dataset import Arrays, DatasetInfo, Package
from data.files import opened, read_bounded, reading
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

MOST_OF_PAGE = 2**23
"""Bytes of one page at most."""

ENGLISH = {"manpages": "6.03-2", "manpages-dev": "6.03-2"}
TRANSLATIONS = {f"manpages-{place.lower().replace('_', '-')}": "4.18.1-1"
                for place in LANGUAGES.values() if place} | {"manpages-pl": "1:4.18.1-1"}  # fmt: skip
"""Packages -> their versions: those of Debian 12."""


def page_passages(folder: Path) -> Iterator[tuple[str, str]]:
    """The passages of the pages under a folder of sections: `man1/ls.1.gz` and so on.

    Yields:
        The name of a page, the same in every language, and a passage.

    Raises:
        FileNotFoundError: there are no pages.
        DamagedFile: a page is damaged.
    """
    pages = sorted(path for path in folder.glob("man[1-9]/*.gz") if not path.is_symlink())
    if not pages:
        raise FileNotFoundError(f"{folder} lacks man1/*.gz and the like")
    for page in pages:
        with reading(page, "a gzipped page"), opened(page) as file:
            source = read_bounded(file, MOST_OF_PAGE).decode(errors="replace")
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


MAN_LANGUAGE = DatasetInfo(
    name="man_language",
    input_shape=(LENGTH,),
    num_classes=len(LANGUAGES),
    files=("man1/*.gz", *(f"{place}/man1/*.gz" for place in LANGUAGES.values() if place), "and the like"),
    read_folder=read_languages,
    sha256={
        "train": "af2cc92e7bf80a974d3914e77a1f233fedca67dc82d27008065815a46ae48206",
        "test": "c6e8a3210cb0da7a328c48f555385052dd90942caec3befba52d7513d40f0f91",
    },
    package=Package("deb", {**ENGLISH, **TRANSLATIONS}, FOLDER, 14),
)

MAN_SECTION = DatasetInfo(
    name="man_section",
    input_shape=(LENGTH,),
    num_classes=len(SECTIONS),
    files=tuple(f"man{section}/*.{section}.gz" for section in SECTIONS),
    read_folder=read_sections,
    sha256={
        "train": "ff8a987afa95011e38bce2bc8063fa88c1efbbdcff27b55041d610a14df5ca16",
        "test": "a9245306fbdd6955df1c8c7f76d0544de017518d6052e046c42af266148f61f2",
    },
    package=Package("deb", ENGLISH, FOLDER, 4),
)
