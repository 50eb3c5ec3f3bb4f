"""Fields of settings, each with what it must be: the one table from which settings are checked."""

import dataclasses
import typing
from typing import Any

from autofusion_jax.arguments import Rule, list_of, rule_of

RULE = "rule"
"""Where the metadata of a field have its rule."""


def field(default: Any, rule: Rule) -> Any:
    """A field of a dataclass that must be as a rule says; without one it must be of its type."""
    return dataclasses.field(default=default, metadata={RULE: rule})


def check_fields(caller: str, settings: Any, owner: str = "") -> None:
    """Hold all fields of settings against what they must be; numbers become those of their types.

    Args:
        caller: what the message begins with.
        settings: a dataclass; its fields may be further ones.
        owner: what the names of its fields begin with in messages.

    Raises:
        ValueError: a field is of another type or out of its range; names it.

    Example:
        >>> @dataclasses.dataclass
        ... class Options:
        ...     rate: float = 0.5
        ...     sizes: tuple[int, ...] = (1, 2)
        >>> check_fields("train", Options())
        >>> check_fields("train", Options(rate=float("nan")))
        Traceback (most recent call last):
        ValueError: train: rate must be a finite number; got nan.
    """
    for one in dataclasses.fields(settings):
        value, name = getattr(settings, one.name), f"{owner}{one.name}"
        if dataclasses.is_dataclass(value):
            check_fields(caller, value, f"{name}.")
        else:
            rule = one.metadata.get(RULE) or _rule_of_type(one.type)
            setattr(settings, one.name, rule.check(caller, name, value))


def _rule_of_type(kind: Any) -> Rule:
    return list_of(rule_of(typing.get_args(kind)[0])) if typing.get_origin(kind) is tuple else rule_of(kind)
