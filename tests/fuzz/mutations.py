"""Mutations of values: bytes of files, JSON documents, pytrees."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 1.5, -0.5, 1e300, -1e300, 10**30, -(10**30), 2**31, 2**63,
    float("nan"), float("inf"), -float("inf"), "", "x", "0", "1e9", "\x00", "a" * 5000, "../x", "(.|.)+X",
    [], [0], [1, 2, 3], [None], [[[]]], {}, {"a": 1}, {"": {}}, [float("nan")],
)  # fmt: skip
"""Of every kind that JSON has, small and huge."""


def damaged_bytes(data: bytes, rng: np.random.Generator, num: int) -> Iterator[tuple[str, bytes]]:
    """Files as disks and networks leave them: flipped, cut, doubled, zeroed, padded.

    Yields:
        What was done, and the bytes.
    """
    kinds = ("flip", "flip", "byte", "cut", "drop", "double", "zeros", "append", "head")
    for number in range(num):
        kind = kinds[number % len(kinds)]
        at = int(rng.integers(max(len(data), 1)))
        size = int(rng.integers(1, 64))
        raw = bytearray(data)
        if kind == "flip" and raw:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte" and raw:
            raw[at] = int(rng.integers(256))
        elif kind == "cut":
            del raw[at:]
        elif kind == "drop":
            del raw[at : at + size]
        elif kind == "double":
            raw[at:at] = raw[at : at + size]
        elif kind == "zeros":
            raw[at : at + size] = bytes(len(raw[at : at + size]))
        elif kind == "append":
            raw += rng.bytes(size)
        elif kind == "head" and raw:  # where headers, sizes and magic numbers are
            raw[int(rng.integers(min(32, len(raw))))] = int(rng.integers(256))
        yield f"{kind} at {at}", bytes(raw)


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    yield at
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*at, key))


def damaged_json(document: Any, rng: np.random.Generator, num: int) -> Iterator[tuple[str, str]]:
    """JSON of which one value is another, is missing, is there twice or is too deep.

    Yields:
        What was done, and the text.
    """
    every = list(places(document))
    for number in range(num):
        path = every[int(rng.integers(len(every)))]
        value = ODD_VALUES[number % len(ODD_VALUES)]
        if number % 11 == 10:
            yield "nested deep", "[" * 100_000 + "]" * 100_000
        elif number % 7 == 6 and path:
            yield f"without {path}", json.dumps(_without(document, path))
        else:
            yield f"{path} = {value!r:.60}", json.dumps(_replaced(document, path, value))


def _replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    other = copy.deepcopy(document)
    _at(other, path[:-1])[path[-1]] = value
    return other


def _without(document: Any, path: tuple[Any, ...]) -> Any:
    other = copy.deepcopy(document)
    del _at(other, path[:-1])[path[-1]]
    return other


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document
