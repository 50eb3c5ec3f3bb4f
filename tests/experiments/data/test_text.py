"""Text data sets: from the markup of manual pages to tokens, through the readers and sources of real ones."""

import dataclasses
import gzip
import subprocess

import numpy as np
import pytest

from data import registry, sources
from data.dataset import DamagedFile, SourceUnavailable
from data.fortunes import COLLECTIONS, FORTUNES
from data.man_pages import LANGUAGES, MAN_LANGUAGE, MAN_SECTION, SECTIONS
from data.roff import paragraphs
from data.text import LENGTH, PAD, decode, encode, text_arrays

PAGE = r"""'\" t
.\" Copyright
.TH SIGNAL 7 2023-02-05 "Linux man-pages"
.SH DESCRIPTION
Each signal has a \(lqcurrent\(rq
.IR disposition ,
see
.BR sigaction (2)
and the "quotes" of
.B "two words" more .
.\" not this
.TP
\fB\-a\fP, \f[BI]\-\-all\f[]\&
caf\('e costs 5\ \(Eu\s-1 x\s0\e \" nor this
.PP
.EX
int code;
.EE
Mot d\(aqordre
.TS
l l.
table	cell
.TE
"""


def test_roff_is_stripped():
    assert list(paragraphs(PAGE)) == [
        'Each signal has a "current" disposition, see sigaction(2) and the "quotes" of two words more .',
        "-a, --all caf costs 5 x\\",
        "Mot d'ordre",
    ]


def test_passages_of_a_source_are_on_one_side():
    """What two classes share is in neither, what a class has twice is there once, the rest are all there."""
    classes = {
        name: [(f"page {i}", f"{name} says {i} and {j}") for i in range(40) for j in range(3)]
        + [("page 0", "the same in both"), ("page 1", f"{name} says 1 and 1")]
        for name in ("a", "b")
    }
    arrays = text_arrays(classes, most=1000)
    texts = {split: [decode(row) for row in arrays[f"{split}_images"]] for split in ("train", "test")}
    pages = {split: {text.split()[2] for text in found} for split, found in texts.items()}
    assert len(texts["train"]) + len(texts["test"]) == 2 * 40 * 3
    assert not pages["train"] & pages["test"] and len(pages["test"]) > 3
    assert not any("same" in text for found in texts.values() for text in found)
    for split, found in texts.items():
        assert [text[0] for text in found] == [("a", "b")[k] for k in arrays[f"{split}_labels"]]
    few = text_arrays(classes, most=8)
    assert np.bincount(few["train_labels"]).tolist() == [8, 8]
    assert np.bincount(few["test_labels"]).tolist() == [2, 2]


def test_a_class_without_text_is_named():
    with pytest.raises(FileNotFoundError, match="no text of class b for the train split"):
        text_arrays({"a": [(f"page {i}", f"text {i}") for i in range(40)], "b": []}, most=8)


def test_tokens_are_bytes():
    rows = encode(["Größe", "x" * 200])
    assert rows.dtype == np.uint8 and rows.shape == (2, LENGTH)
    assert bytes(rows[0, :7].tolist()) == "Größe".encode() and set(rows[0, 7:].tolist()) == {PAD}
    assert decode(rows[0]) == "Größe" and decode(rows[1]) == "x" * LENGTH


SENTENCE = "Signal number {0} of {1} is delivered to the process and to its children {2} times"


def write_pages(folder, sections=SECTIONS):
    """Twenty pages in every section of every language, whose passages all differ."""
    for language, place in LANGUAGES.items():
        for section in sections:
            where = folder / place / f"man{section}"
            where.mkdir(parents=True)
            for i in range(20):
                text = f".TH X {section}\n.PP\n" + SENTENCE.format(i, f"{language}-{section}", i) + "\n"
                (where / f"page{i}.{section}.gz").write_bytes(gzip.compress(text.encode()))


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A cache of its own, and no network at all."""
    monkeypatch.setenv("AUTOFUSION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(registry.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a package client was run"))
    for info in (MAN_LANGUAGE, MAN_SECTION, FORTUNES):  # whose texts here are others
        monkeypatch.setitem(registry.DATASETS, info.name, dataclasses.replace(info, sha256={}))


def test_languages_and_sections_are_read_from_a_folder(tmp_path):
    write_pages(tmp_path / "man")
    languages, sections = (
        registry.load_dataset(info.name, folder=str(tmp_path / "man"), report=lambda line: None)
        for info in (MAN_LANGUAGE, MAN_SECTION)
    )
    rows = zip(languages.train_images, languages.train_labels)
    assert all(f"of {list(LANGUAGES)[label]}-" in decode(row) for row, label in rows)
    assert set(languages.train_labels) == set(range(len(LANGUAGES)))
    rows = zip(sections.test_images, sections.test_labels)
    assert all(f"of en-{SECTIONS[label]} " in decode(row) for row, label in rows)
    assert len(sections.train_labels) + len(sections.test_labels) == 20 * len(SECTIONS)


def test_a_damaged_page_is_named(tmp_path):
    write_pages(tmp_path)
    page = tmp_path / "man2" / "page3.2.gz"
    page.write_bytes(page.read_bytes()[:-9])
    with pytest.raises(DamagedFile, match="page3.2.gz must be a gzipped page"):
        registry.load_dataset("man_section", folder=str(tmp_path), report=lambda line: None)


def fake_apt(monkeypatch, fill, versions):
    """`apt-get download` leaves archives of these versions; the first `dpkg -x` unpacks all content."""
    commands = []

    def run(command, cwd, **_):
        commands.append(command)
        if command[0] == "apt-get":
            for name in command[2:]:
                name = name.partition("=")[0]
                (cwd / f"{name}_{versions[name]}_all.deb").write_bytes(b"")
        elif not (cwd / "usr").exists():
            fill(cwd)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_several_packages_are_one_source(monkeypatch, tmp_path):
    """Each in its one version; the cached data say the same of themselves."""
    wanted = MAN_LANGUAGE.package.versions
    versions = dict.fromkeys(wanted, "1%3a4.18-1")
    commands = fake_apt(monkeypatch, lambda work: write_pages(work / MAN_LANGUAGE.package.folder), versions)
    data = registry.load_dataset("man_language", report=lambda line: None)
    assert commands[0] == ["apt-get", "download", *map("=".join, wanted.items())]
    assert len(commands) == 1 + len(versions)
    for name in versions:
        assert f"{name} 1:4.18-1" in data.source
    again = registry.load_dataset("man_language", report=lambda line: None)
    assert (
        again.source == f"{data.source} (cached)"
        and again.sha256 == data.sha256
        and len(commands) == 1 + len(versions)
    )


def test_fortunes(monkeypatch):
    def fill(work):
        folder = work / "usr/share/games/fortunes"
        folder.mkdir(parents=True)
        for name in COLLECTIONS:
            quotations = (SENTENCE.format(i, f"'{name}'", i) for i in range(60))
            (folder / name).write_text("\n%\n".join(quotations) + "\n%\n")

    fake_apt(monkeypatch, fill, {"fortunes": "1-2"})
    data = registry.load_dataset("fortunes", report=lambda line: None)
    rows = zip(data.train_images, data.train_labels)
    assert all(f"'{COLLECTIONS[label]}'" in decode(row) for row, label in rows)
    assert data.source == "deb package fortunes 1-2"


def test_other_texts_than_those_of_the_checksums_are_refused(monkeypatch, tmp_path):
    """From a package they are no source; in the user's folder they are an error that says what to get."""
    monkeypatch.setitem(registry.DATASETS, MAN_SECTION.name, MAN_SECTION)
    fake_apt(monkeypatch, lambda work: write_pages(work / MAN_SECTION.package.folder),
             {"manpages": "6.03-2", "manpages-dev": "6.03-2"})  # fmt: skip
    with pytest.raises(FileNotFoundError, match="refused: .* must have SHA-256 .*manpages 6.03-2"):
        registry.load_dataset("man_section", report=lambda line: None)
    assert not (tmp_path / "cache").exists()
    write_pages(tmp_path / "man")
    with pytest.raises(DamagedFile, match=r"of another version \(manpages 6.03-2, manpages-dev 6.03-2\)"):
        registry.load_dataset("man_section", folder=str(tmp_path / "man"), report=lambda line: None)


def test_text_that_no_source_has(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(FileNotFoundError, match="no source has fortunes.*apt-get is not installed.*zippy"):
        registry.load_dataset("fortunes", report=lambda line: None)


def test_a_package_that_lacks_is_one_line(monkeypatch):
    few = dataclasses.replace(
        MAN_SECTION, package=dataclasses.replace(MAN_SECTION.package, versions={"one": "1", "two": ""})
    )
    fake_apt(monkeypatch, lambda work: None, {"one": "1", "two": "1"})
    with pytest.raises(SourceUnavailable, match=r"lacks a file \(.*man1/\*.gz"):
        sources.from_package(few, "")
