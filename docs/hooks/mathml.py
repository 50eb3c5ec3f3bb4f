"""Formulas as MathML, made while the documentation is built: they need no script, and no network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def to_mathml(text: str) -> str:
    """A page's HTML with MathML for what `pymdownx.arithmatex` (generic) marked as formulas."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["kind"] == "[" else "inline"
        latex = html.unescape(match["latex"]).strip()
        made = convert(latex, display=display)
        if (
            "\\" in made
        ):  # a command that the converter does not know stands there as it is
            raise ValueError(
                f"mathml: a formula must be of commands that latex2mathml knows; got {latex}"
            )
        return f'<div class="formula">{made}</div>' if display == "block" else made

    return FORMULA.sub(formula, text)


def on_page_content(text: str, **_: Any) -> str:
    """Convert the formulas of a page."""
    return to_mathml(text)
