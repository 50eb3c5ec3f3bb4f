"""Changes to the settings of a panel: single fields, and all that makes a first look fast."""

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from autofusion_jax.validation import unknown_name


def override(config: Any, assignment: str) -> None:
    """Set a field of a config by `FIELD.FIELD=VALUE`, in the type of its present value.

    Raises:
        ValueError: no such field, or a value of another type.

    Example:
        >>> from training.loop import TrainOptions
        >>> options = TrainOptions()
        >>> override(options, "epochs=7")
        >>> options.epochs
        7
    """
    path, _, text = assignment.partition("=")
    owner, value = config, config
    for name in path.strip().split("."):
        known = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        if name not in known:
            raise unknown_name("--set", "field", name, known)
        owner, value = value, getattr(value, name)
    setattr(owner, name, _parse(path, text, value))


def restore(config: Any, stored: Mapping[str, Any]) -> None:
    """Set the fields of a config to those that were stored as JSON; what is no field is left out."""
    for field in dataclasses.fields(config):
        if field.name not in stored:
            continue
        present, value = getattr(config, field.name), stored[field.name]
        if dataclasses.is_dataclass(present):
            restore(present, value)
        else:
            setattr(config, field.name, tuple(value) if isinstance(present, tuple) else value)


def _parse(path: str, text: str, present: Any) -> Any:
    kind = type(present)
    try:
        value = text if kind is str else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"--set: {path} must be {kind.__name__}, such as {present!r}; got {text!r}.")
    return value
