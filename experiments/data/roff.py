"""The running text of manual pages, without their roff markup."""

import re
from collections.abc import Iterator

FONTS = ("B", "BI", "BR", "I", "IB", "IR", "RB", "RI", "SB", "SM")
"""Macros whose arguments are words of the text; two letters other than SB and SM: set without spaces."""

VERBATIM = {"nf": "fi", "EX": "EE", "TS": "TE"}
"""Requests that begin code or a table, and those that end it."""

_REQUEST = re.compile(r"[.'][ \t]*(\S*)[ \t]*(.*)")
_ARGUMENT = re.compile(r'"([^"]*)"?|(\S+)')
_NAMED = re.compile(r"\\\((..)|\\\[([^\]]{0,99})\]")  # without a bound, lines of brackets take forever
_CHARACTERS = {"aq": "'", "oq": "'", "cq": "'", "dq": '"', "lq": '"', "rq": '"', "em": "-", "en": "-",
               "hy": "-", "mi": "-", "ti": "~", "ha": "^", "rs": "\\", "Fo": "«", "Fc": "»"}  # fmt: skip
_RULES = (
    (re.compile(r'\\".*'), ""),  # a comment
    (re.compile(r"\\f(\[[^\]]{0,99}\]|\(..|.)"), ""),  # a font
    (re.compile(r"\\s(\[[^\]]{0,99}\]|[+-]?\d)"), ""),  # a size
    (re.compile(r"\\[*ngk](\[[^\]]{0,99}\]|\(..|.)"), ""),  # a string or register
    (re.compile(r"\\[hvwm](\[[^\]]{0,99}\]|'[^']{0,99}')"), ""),  # a movement or colour
    (_NAMED, lambda match: _CHARACTERS.get(match[1] or match[2], "")),
    (re.compile(r"\\[&|^%,/:)acdu]"), ""),  # nothing that is seen
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\(.)"), lambda match: "\\" if match[1] == "e" else match[1]),  # `\-` and the like
)


def paragraphs(source: str) -> Iterator[str]:
    r"""The paragraphs of a manual page in the `man` macros, each as one line.

    The rule: escapes are resolved or dropped, the arguments of font macros are words; every other
    request ends a paragraph and is dropped with its arguments, and so are code and tables.

    Args:
        source: the page as it is stored.

    Example:
        >>> page = ".SH NAME\n.PP\nThe \\fBls\\fP\\-program,\nsee\n.BR stat (2).\n.nf\ncode\n.fi\n"
        >>> list(paragraphs(page))
        ['The ls-program, see stat(2).']
    """
    words: list[str] = []
    ending = ""
    for line in source.splitlines():
        request = _REQUEST.match(line)
        name = request[1] if request else ""
        if ending:
            ending = "" if name == ending else ending
        elif request is None or name in FONTS:
            words.append(_text(_joined(name, request[2]) if request else line))
        elif not name.startswith('\\"'):
            ending = VERBATIM.get(name, "")
            yield from _whole(words)
            words = []
    yield from _whole(words)


def _whole(words: list[str]) -> list[str]:
    paragraph = " ".join(" ".join(words).split())
    return [paragraph] if paragraph else []


def _joined(macro: str, arguments: str) -> str:
    """The arguments of a font macro as they are set."""
    words = [quoted or plain for quoted, plain in _ARGUMENT.findall(arguments)]
    return ("" if len(macro) == 2 and macro[0] != "S" else " ").join(words)


def _text(line: str) -> str:
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line
