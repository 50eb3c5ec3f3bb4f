"""Checks of arguments, with messages of one form."""

import difflib
from collections.abc import Iterable
from typing import Any


def require(condition: bool, caller: str, argument: str, must_be: str, got: Any, advice: str = "") -> None:
    """Raise ValueError "caller: argument must be ...; got ... advice" unless `condition` holds."""
    if not condition:
        raise ValueError(f"{caller}: {argument} must be {must_be}; got {got}. {advice}".rstrip())


def unknown_name(caller: str, kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not registered: the nearest match first, then all."""
    names = sorted(known)
    hint = nearest(name, names)
    listed = ", ".join(names) or "none"
    return ValueError(f"{caller}: unknown {kind} {name!r}.{' ' * bool(hint)}{hint} Known: {listed}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for the known name that is most like a wrong one, or nothing.

    Example:
        >>> nearest("identiy", ["identity", "random"])
        "Did you mean 'identity'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else ""
