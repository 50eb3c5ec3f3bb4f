"""JSON of a known form: what does not fit is one line that names the file and the place in it."""

import dataclasses
import json
import math
import reprlib
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NoReturn

LARGEST = 1 << 26
"""Bytes of a file that are read at most: more than any spec, index or config has."""
DEEPEST = 100
"""How far lists and objects may be nested: no form that is read here needs a tenth."""
LARGEST_SIZE = 2**63 - 1
"""The largest size of an axis: what an int64 holds."""
SHOWN = 100
"""Letters of a value in a message."""


@dataclasses.dataclass(frozen=True)
class Json:
    """A value in a JSON document that knows its place, so that every check can name it.

    Attributes:
        value: the value, as `json` gives it.
        source: who reads what, `"load: /runs/a/spec.json"`.
        key: the place in the document, `"groups[0].size"`; empty for the whole.
        error: the type of the errors.

    Example:
        >>> data = parse_json('{"sizes": [3, null]}', "read")
        >>> [size.integer() for size in data.fields("sizes")["sizes"].items()]
        Traceback (most recent call last):
            ...
        ValueError: read: sizes[1] must be an integer from 0 to 9223372036854775807; got None.
    """

    value: Any
    source: str
    key: str = ""
    error: type[ValueError] = ValueError

    def require(self, condition: bool, must_be: str, advice: str = "") -> None:
        """Raise the error "source: key must be ...; got ... advice" unless `condition` holds."""
        if not condition:
            place = f"{self.source}: {self.key}" if self.key else self.source
            raise self.error(f"{place} must be {must_be}; got {shown(self.value)}. {advice}".rstrip())

    def mapping(self) -> dict[str, "Json"]:
        """The members of an object, whatever their names."""
        self.require(isinstance(self.value, dict), "a JSON object")
        dot = "." if self.key else ""
        keys = {name: dot + name if name.isidentifier() else f"[{shown(name)}]" for name in self.value}
        return {name: self._inner(value, self.key + keys[name]) for name, value in self.value.items()}

    def fields(self, *names: str, optional: tuple[str, ...] = ()) -> dict[str, "Json"]:
        """The members of an object that has these names, perhaps the optional ones, and no others."""
        found, known = self.mapping(), (*names, *optional)
        for name in (*names, *found):
            self.require(name in found, f"an object with {name!r}")
            self.require(name in known, f"an object of {', '.join(known)}", f"It has {shown(name)}.")
        return found

    def items(self) -> list["Json"]:
        """The items of a list."""
        self.require(isinstance(self.value, list), "a list")
        return [self._inner(value, f"{self.key}[{number}]") for number, value in enumerate(self.value)]

    def text(self) -> str:
        """A string."""
        self.require(isinstance(self.value, str), "a string")
        return self.value

    def integer(self, least: int = 0, most: int = LARGEST_SIZE) -> int:
        """An integer in a range."""
        ok = isinstance(self.value, int) and not isinstance(self.value, bool) and least <= self.value <= most
        self.require(ok, f"an integer from {least} to {most}")
        return self.value

    def number(self) -> float:
        """A finite number."""
        ok = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        self.require(ok and abs(self.value) <= sys.float_info.max, "a number")
        return float(self.value)

    def one_of(self, known: Collection[Any]) -> Any:
        """One of some strings, numbers or None."""
        same = any(type(self.value) is type(other) and self.value == other for other in known)
        self.require(same, f"one of {', '.join(map(repr, known))}")
        return self.value

    def _inner(self, value: Any, key: str) -> "Json":
        return dataclasses.replace(self, value=value, key=key)


def shown(value: Any) -> str:
    """A value in a message: one line, and not a long one."""
    text = reprlib.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_json(path: Path, caller: str, error: type[ValueError] = ValueError, *, finite: bool = True) -> Json:
    """Read a JSON file.

    Args:
        path: the file.
        caller: who reads it, for messages.
        error: the type of errors, also of those of the values.
        finite: refuse NaN and infinity, which Python writes but JSON has not.

    Raises:
        FileNotFoundError: there is no such file; names it.
        ValueError: it is too large, is not UTF-8 or is not JSON; names it, and the line.
    """
    source = f"{caller}: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{caller}: there is no file {path}.")
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise error(f"{source} must be JSON of at most {LARGEST >> 20} MiB; it is larger.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as why:
        raise error(f"{source} must be JSON in UTF-8; {why}.") from None
    return parse_json(text, source, error, finite=finite)


def parse_json(text: str, source: str, error: type[ValueError] = ValueError, *, finite: bool = True) -> Json:
    """Parse a JSON document without a name twice in one object, or, if `finite`, NaN and infinity.

    Raises:
        ValueError: it is something else; names the line, or what is wrong.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_number if finite else None,
            parse_float=_finite_float if finite else None,
        )
        if "\\u" in text:  # half of a pair of surrogates can be neither printed nor written
            json.dumps(value, ensure_ascii=False).encode()
        _check_depth(value)
    except RecursionError:
        raise error(f"{source} must be JSON nested at most {DEEPEST} deep; it is nested deeper.") from None
    except UnicodeEncodeError:
        raise error(f"{source} must be JSON of whole Unicode characters; half of one is escaped.") from None
    except ValueError as why:
        raise error(f"{source} must be JSON; {why}.") from None
    return Json(value, source, error=error)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {shown(name)} is there twice in one object")
        found[name] = value
    return found


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [child for each in inner for child in each if isinstance(child, list | dict)]
    if level:
        raise RecursionError


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{shown(digits)} is too large a number")
    return value
