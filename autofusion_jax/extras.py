"""Optional packages: the extra that installs each, and one line where it is missing."""

import importlib.util
from typing import NamedTuple


class Source(NamedTuple):
    """Where an optional package comes from.

    Attributes:
        package: its name in the package index.
        extra: the extra of this project that installs it.
    """

    package: str
    extra: str


OPTIONAL = {
    "PIL": Source("pillow", "report"),
    "flax": Source("flax", "models"),
    "jinja2": Source("jinja2", "report"),
    "matplotlib": Source("matplotlib", "report"),
    "ml_collections": Source("ml-collections", "experiments"),
    "orbax.checkpoint": Source("orbax-checkpoint", "checkpoints"),
    "sklearn": Source("scikit-learn", "experiments"),
    "tensorflow_datasets": Source("tensorflow-datasets", "experiments"),
}
"""Module -> its package and extra, as pyproject.toml lists them."""


class MissingExtra(ModuleNotFoundError):
    """An optional package is not installed; the message says how to install it."""


def need(*modules: str, what: str, extra: str = "") -> None:
    """Say in one line which extra is missing, before an optional package is imported.

    Args:
        modules: keys of `OPTIONAL`.
        what: what needs them, in the user's words.
        extra: the extra to name, where one installs all that `what` needs; by default the module's own.

    Raises:
        MissingExtra: one of them is not installed.

    Example:
        >>> need("orbax.checkpoint", what="af.save")
    """
    for module in modules:
        if not _is_installed(module):
            source = OPTIONAL[module]
            install = f"pip install 'autofusion_jax[{extra or source.extra}]'"
            raise MissingExtra(f"{what} needs {source.package}: {install}", name=module)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would hold the module is not there either
        return False
