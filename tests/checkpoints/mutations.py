"""Damaged files made of whole ones, the same ones each time."""

import copy
import json
import random

from tests.fuzz.harness import time_limit

VALUES = (
    None, True, -1, 0, 1, 7, 2**63, 10**40, 1e300, -0.5, "", "x", "\n", "\x00", "../x", "x" * 300, [], [1],
    [None], {}, {"x": 1}, [[[]]],
)  # fmt: skip


def places(value, path=()):
    """The paths of all values in a document."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def parent_of(document, path):
    for key in path[:-1]:
        document = document[key]
    return document


def damaged_texts(text):
    """A document as what is left of it, in other encodings, and around what readers choke on."""
    raw = text.encode()
    yield from (raw[:length] for length in (0, 1, len(raw) // 3, len(raw) // 2, len(raw) - 1))
    yield b"\xef\xbb\xbf" + raw
    yield text.encode("utf-16")
    yield raw[:-1] + b', "\xe9": "\xff"}'
    yield raw[:1] + b'"x": 1, "x": 2, ' + raw[1:]
    yield raw + raw
    for value in (
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b'"\\ud800"',
        b"[" * 10**5,
        b"[" * 200 + b"]" * 200,
    ):
        yield value
        yield raw[:1] + b'"x": ' + value + b", " + raw[1:]
    yield b"\x00" * len(raw)
    yield b"<html></html>"
    yield from (json.dumps(value).encode() for value in VALUES)


def mutants(text, num, seed=0):
    """`num` documents in which one or two values are replaced, removed, added, doubled or swapped."""
    rng, whole = random.Random(seed), json.loads(text)
    while num:
        document = copy.deepcopy(whole)
        for _ in range(rng.choice((1, 1, 2))):
            path = rng.choice([place for place in places(document) if place])
            parent, key = parent_of(document, path), path[-1]
            kind = rng.choice(("replace", "replace", "replace", "remove", "add", "double", "swap"))
            if kind == "replace":
                parent[key] = copy.deepcopy(rng.choice(VALUES))
            elif kind == "remove":
                del parent[key]
            elif kind == "swap":
                other = rng.choice([place for place in places(document) if place])
                there = parent_of(document, other)
                if path != other[: len(path)] and other != path[: len(other)]:
                    parent[key], there[other[-1]] = there[other[-1]], parent[key]
            elif isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key] if kind == "double" else rng.choice(VALUES)))
            else:
                parent[f"{key}2"] = copy.deepcopy(parent[key] if kind == "double" else rng.choice(VALUES))
            if not [place for place in places(document) if place]:
                break
        if document != whole:
            num -= 1
            yield json.dumps(document).encode()


def flips(raw, places):
    """A file with one bit flipped at each of some places."""
    for place in places:
        yield raw[:place] + bytes([raw[place] ^ (1 << place % 8)]) + raw[place + 1 :]


def refusal(read, *names):
    """What a reader says against a damaged file, one line that names one of these; None if it takes it."""
    found = None
    try:
        with time_limit():
            read()
    except (ValueError, FileNotFoundError) as error:
        found = error
    if found is None:
        return None
    said = str(found)
    assert not isinstance(found, json.JSONDecodeError | UnicodeError), said
    assert "\n" not in said and len(said) < 800, said
    assert any(name in said for name in names), said
    return said
