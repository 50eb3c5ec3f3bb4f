"""The named configs: every file of this folder is one, and `NAME_paper` is each with the paper's merge.

Files that define no config are `models` and `schema`.
"""

import dataclasses
import functools
import importlib
import pkgutil
import re
import typing
from collections.abc import Callable, Sequence

from autofusion_jax.validation import require, unknown_name
from configs.schema import Config, in_paper_settings

NO_CONFIGS = ("models", "schema")
PAPER = "_paper"


def _build(name: str, *, paper: bool) -> Config:
    config = importlib.import_module(f"configs.{name}").get_config()
    return in_paper_settings(config) if paper else config


def _find() -> dict[str, Callable[[], Config]]:
    names = [found.name for found in pkgutil.iter_modules(__path__) if found.name not in NO_CONFIGS]
    return {
        f"{name}{PAPER if paper else ''}": functools.partial(_build, name, paper=paper)
        for name in names
        for paper in (False, True)
    }


CONFIGS = _find()
"""Name -> what builds the config, anew each time."""


def get_config(name: str) -> Config:
    """Build a config by name.

    Raises:
        ValueError: unknown name; the nearest match first, then all.
    """
    if name not in CONFIGS:
        raise unknown_name("--config", "name", name, CONFIGS)
    return CONFIGS[name]()


def check_overrides(argv: Sequence[str]) -> list[str]:
    """Refuse a command line without `--config=NAME` before its overrides, or with a misspelt one.

    Returns:
        The same command line, with each list as ml_collections reads it: an empty one is none to it.

    Raises:
        ValueError: says what is wrong and lists what there is.
    """
    flags = [re.match(r"--?config((?:\.\w+)*)(?:=(.*))?$", argument) for argument in argv]
    found = [match for match in flags if match]
    if not found or found[0].group(1):
        raise ValueError(
            f"--config=NAME must come first; got {' '.join(argv) or 'nothing'}. Known: {', '.join(CONFIGS)}."
        )
    position = argv.index(found[0].group(0))
    following = argv[position + 1] if position + 1 < len(argv) else ""
    config = get_config(found[0].group(2) if found[0].group(2) is not None else following)
    plain = list(argv)
    for place, match in enumerate(flags):
        if match is None or match is found[0]:
            continue
        name, node, kind = match.group(1).strip("."), config, None
        for field in name.split("."):
            known = {f.name: f for f in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
            if field not in known:
                raise unknown_name("--config", "field", field, known)
            node, kind = getattr(node, field), known[field].type
        inner = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
        require(not inner, f"--config.{name}", "a field of it", f"set, one of {', '.join(inner)}", "none")
        if typing.get_origin(kind) is tuple:
            follows = match.group(2) is None and place + 1 < len(plain)
            text = (plain[place + 1] if follows else match.group(2)) or ""
            literal = _as_literal(name, text, typing.get_args(kind)[0])
            plain[place + follows] = literal if follows else f"--config.{name}={literal}"
    return plain


def _as_literal(name: str, text: str, kind: type) -> str:
    """A list as Python writes it: of `a,b`, `(1, 2)` or nothing. What it holds is never evaluated."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    parts = [part.strip().strip("'\"") for part in inner.split(",")]
    try:
        values = tuple(kind(part) for part in parts if part)
    except ValueError:
        values = None
    wanted = f"of type {kind.__name__}, separated by commas"
    require(values is not None, f"--config.{name}", "its values", wanted, repr(text[:80]))
    return repr(values)
