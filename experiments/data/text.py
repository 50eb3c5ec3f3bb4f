"""Text as data sets: passages of one length in bytes, a class for each, without a tokenizer."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from data.dataset import Arrays
from data.splits import generator

PAD = 0
"""The token that fills up a passage; all others are the bytes of its UTF-8 form."""

LENGTH = 96
"""Bytes of a passage."""

TEST_SHARE = 5
"""One source in so many is for testing."""

Passages = Iterable[tuple[str, str]]
"""Pairs of a source, of whose passages all are for training or all for testing, and a passage."""


def cut(text: str, length: int = LENGTH) -> Iterator[str]:
    """Cut a text between words into passages of at most `length` bytes, and of half of that at least.

    Args:
        text: any text; runs of space count as one space, and words longer than a passage are left out.
        length: of a passage in bytes.

    Example:
        >>> list(cut("one two three four five", 8))
        ['one two', 'three', 'four', 'five']
    """
    passage = ""
    for word in text.split():
        longer = f"{passage} {word}" if passage else word
        if len(longer.encode()) <= length:
            passage = longer
            continue
        if len(passage.encode()) >= length / 2:
            yield passage
        passage = word if len(word.encode()) <= length else ""
    if len(passage.encode()) >= length / 2:
        yield passage


def encode(passages: Sequence[str], length: int = LENGTH) -> UInt8[np.ndarray, "n length"]:
    """The bytes of passages, filled up with `PAD`.

    Example:
        >>> encode(["ab", "é"], 3).tolist()
        [[97, 98, 0], [195, 169, 0]]
    """
    rows = [passage.encode()[:length].ljust(length, bytes([PAD])) for passage in passages]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), length)


def decode(row: UInt8[np.ndarray, " length"]) -> str:
    """The text of one row of `encode`.

    Example:
        >>> decode(encode(["é"], 3)[0])
        'é'
    """
    return bytes(row.tolist()).rstrip(bytes([PAD])).decode(errors="replace")


def text_arrays(classes: Mapping[str, Passages], *, most: int) -> Arrays:
    """Make a data set of passages: the same number of each class, as far as there are as many.

    A passage that occurs twice is taken once, and one that occurs in several classes not at all. All
    passages of a source are on one side of the split into training and test, by a checksum of its name.

    Args:
        classes: the passages of each class, by its name.
        most: of each class at most this many for training, and a quarter of it for testing.

    Returns:
        The splits as `load_dataset` takes them: byte tokens `[N, LENGTH]`, labels in the order of `classes`.

    Raises:
        FileNotFoundError: a class has no passages for training or none for testing.
    """
    found = [{passage: source for source, passage in passages} for passages in classes.values()]
    arrays: Arrays = {}
    for split, limit in (("train", most), ("test", most // 4)):
        rows, labels = [], []
        for label, name in enumerate(classes):
            others = [other for place, other in enumerate(found) if place != label]
            mine = [
                passage
                for passage, source in sorted(found[label].items())
                if _is_test(source) == (split == "test") and not any(passage in other for other in others)
            ]
            if not mine:
                raise FileNotFoundError(f"no text of class {name} for the {split} split")
            kept = generator(f"text/{split}/{name}", 0).permutation(len(mine))[:limit]
            rows += [mine[place] for place in kept]
            labels += [label] * len(kept)
        arrays |= {f"{split}_images": encode(rows), f"{split}_labels": np.asarray(labels, np.uint8)}
    return arrays


def _is_test(source: str) -> bool:
    return zlib.crc32(source.encode()) % TEST_SHARE == 0
