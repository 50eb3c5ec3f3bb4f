"""Display of a merge: one paragraph as `repr`, a table as text, and the same table for notebooks."""

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import TYPE_CHECKING

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from autofusion_jax.html_tables import html_table
from autofusion_jax.merging.diagnostics import reading, short
from autofusion_jax.trees import num_params

if TYPE_CHECKING:
    from autofusion_jax.merging.result import MergeResult

WIDTH = 100
LISTED = 6
"""Names that a line lists before it only counts them."""

Row = tuple[str, str, str]
"""Name, value, and what that says."""


def listed(names: Iterable[str]) -> str:
    """Names in a line, or their number with the first ones.

    Example:
        >>> listed(["a", "b"]), listed(map(str, range(9)))
        ('a, b', '9: 0, 1, 2, 3, 4, 5, ...')
    """
    found = list(names)
    return ", ".join(found) if len(found) <= LISTED else f"{len(found)}: {', '.join(found[:LISTED])}, ..."


def summary_rows(result: "MergeResult") -> list[tuple[str, list[Row]]]:
    """The rows of a summary, by heading: what was done, the merged network, how far to trust it."""
    done = [(name, value, "") for name, value in result.recipe]
    network = [("parameters", f"{num_params(result.params):,}", f"in {_num_leaves(result)} leaves")]
    if result.num_heads > 1:
        network.append(("heads", str(result.num_heads), "apply_fn stacks their outputs"))
    if result.variants:
        network.append(("variants", listed(result.variants), f"params is {_chosen(result)!r}"))
    if result.perms:
        moved = sum(int((np.asarray(p) != np.arange(np.shape(p)[-1])).sum()) for p in result.perms.values())
        total = sum(np.size(p) for p in result.perms.values())
        network.append(
            ("permutations", f"{len(result.perms)} groups", f"{moved:,} of {total:,} units of B moved")
        )
    network.append(("numbers learned", f"{result.num_learned:,}", "fitted to data"))
    network.append(("seconds", f"{float(result.seconds):.1f}", "compilation included"))
    trust = [(name, short(value), reading(name, value)) for name, value in result.diagnostics.items()]
    for name, curve in result.history.items():
        values = np.asarray(curve)
        if values.ndim == 1 and values.size:
            trust.append(
                (name, f"{values[0]:.4g} to {values[-1]:.4g}", f"first and last of {values.size} steps")
            )
    parts = [("what was done", done), ("merged network", network), ("how far to trust it", trust)]
    return [(heading, rows) for heading, rows in parts if rows]


def _num_leaves(result: "MergeResult") -> int:
    return len(jax.tree.leaves(result.params))


def _chosen(result: "MergeResult") -> str:
    same = (name for name, params in result.variants.items() if params is result.params)
    return next(same, next(iter(result.variants)))


def summary_table(result: "MergeResult") -> Table:
    """The summary as a table for a terminal."""
    table = Table(box=None, show_header=False, pad_edge=False, title=_title(result), title_justify="left")
    for number, (heading, rows) in enumerate(summary_rows(result)):
        if number:
            table.add_row()
        table.add_row(f"[bold]{heading}[/bold]")
        for row in rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return table


def _title(result: "MergeResult") -> str:
    return f"MergeResult of {dict(result.recipe).get('method', 'a merge')}"


def text_of(table: Table) -> str:
    """A table as plain text."""
    out = StringIO()
    Console(file=out, width=WIDTH, force_terminal=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def result_html(result: "MergeResult") -> str:
    """The summary as an HTML table."""
    return html_table(_title(result), summary_rows(result))


def result_repr(result: "MergeResult") -> str:
    """One paragraph that names what is there, whatever the size of the network."""
    recipe = dict(result.recipe)
    fields: Mapping[str, str] = {
        "method": repr(recipe.get("method", "")),
        "params": f"<{num_params(result.params):,} numbers in {_num_leaves(result)} leaves>",
        "variants": f"[{listed(result.variants)}]",
        "perms": f"<{len(result.perms)} groups>",
        "history": f"[{listed(result.history)}]",
        "diagnostics": f"[{listed(result.diagnostics)}]",
        "num_learned": f"{result.num_learned:,}",
        "num_heads": str(result.num_heads),
    }
    inside = "".join(f"    {name}={value},\n" for name, value in fields.items())
    return f"MergeResult(\n{inside})  # print(result) or result.summary() says more"
