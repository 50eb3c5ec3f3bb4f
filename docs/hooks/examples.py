"""Docstring sections titled `Example`, read as what they are: code that runs as a doctest."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Give them the plural, the only title that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Retitle the section in an object's docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
