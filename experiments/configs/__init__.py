"""The named configs: every file of this folder is one, and `NAME_paper` is each with the paper's merge.

Files that define no config are `models` and `schema`.
"""

import dataclasses
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence

from autofusion_jax.validation import unknown_name
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


def check_overrides(argv: Sequence[str]) -> None:
    """Refuse a command line without `--config=NAME` before its overrides, or with a misspelt one.

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
    for match in found[1:]:
        node = config
        for field in match.group(1).strip(".").split("."):
            known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
            if field not in known:
                raise unknown_name("--config", "field", field, known)
            node = getattr(node, field)
