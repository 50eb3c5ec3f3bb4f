"""HTML tables for notebooks."""

from collections.abc import Sequence
from html import escape


def html_table(title: str, parts: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """Rows under headings as an HTML table for notebooks.

    Args:
        title: its caption.
        parts: for each heading its rows, all of one length.
    """
    lines = [f"<table><caption>{escape(title)}</caption>"]
    for heading, rows in parts:
        span = max((len(row) for row in rows), default=1)
        lines.append(f'<tr><th colspan="{span}" style="text-align:left">{escape(heading)}</th></tr>')
        lines += [
            "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>"
            for row in rows
        ]
    return "\n".join([*lines, "</table>"])
