"""Methods by name, with options by name."""

import inspect
from collections.abc import Callable
from typing import Any

from autofusion_jax import methods
from autofusion_jax.merging.method import Method
from autofusion_jax.validation import unknown_name

METHODS: dict[str, Callable[..., Method]] = {
    name: factory for name, factory in sorted(vars(methods).items()) if inspect.isfunction(factory)
}
"""Name -> factory, all of `autofusion_jax.methods`."""


def list_methods() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    return tuple(METHODS)


def get_method(name: str, **options: Any) -> Method:
    """Build a method by name.

    Args:
        name: one of `list_methods()`.
        options: keyword arguments of its factory.

    Raises:
        ValueError: unknown name or option; lists the known ones and the nearest match.
    """
    if name not in METHODS:
        raise unknown_name("merge", "method", name, METHODS)
    return METHODS[name](**options)


def changed_options(method: Method) -> dict[str, Any]:
    """The options of a method that are not those of its factory by default.

    Example:
        >>> changed_options(get_method("ties", density=0.5))
        {'density': 0.5}
    """
    known = inspect.signature(METHODS[method.name]).parameters if method.name in METHODS else {}
    return {
        name: value
        for name, value in method.options.items()
        if name not in known or not _same(value, known[name].default)
    }


def _same(value: Any, default: Any) -> bool:
    plain = isinstance(value, str | int | float)  # arrays have no one answer
    return value is default or (plain and value == default)


def as_method(method: str | Method, options: dict[str, Any]) -> Method:
    """Build a method by name, or take one as it is.

    Raises:
        ValueError: unknown name or option, or options for a method that has its own already.
    """
    if isinstance(method, str):
        return get_method(method, **options)
    if options:
        raise ValueError(
            f"merge: options must be given to the method itself when it is not a name; got {list(options)}. "
            f"Write methods.{method.name}({', '.join(f'{o}=...' for o in options)})."
        )
    return method
