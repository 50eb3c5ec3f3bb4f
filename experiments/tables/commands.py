"""The commands that make panels of a table again."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tables.schema import Panel, Table
from tables.stored import panel_identity

FLAGS = ("pairs", "seed")
"""Fields of a table's settings that have a flag of their own in `reproduce.py`."""
FAST = "--fast"


class RanPanel(NamedTuple):
    """A panel of a table as it was run: its settings then, and the names of the rows that were run."""

    table: Table
    panel: Panel
    config: Mapping[str, Any]
    rows: Collection[str]


def table_command(ran: Sequence[RanPanel]) -> str:
    """The command that runs these panels again; a line for each group of equal settings and rows.

    Example:
        >>> from tables import TABLES
        >>> table, panel = TABLES["5"], TABLES["5"].panels[1]
        >>> table_command([RanPanel(table, panel, {"pairs": 1}, [entry.name for entry in panel.rows])])
        'python experiments/reproduce.py --table=5 --panels=shared --pairs=1'
    """
    groups: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for one in ran:
        groups.setdefault((one.table.name, tuple(_panel_flags(one))), {})[one.panel.name] = None
    tables = {one.table.name: one.table for one in ran}
    return "\n".join(_line(tables[name], list(panels), flags) for (name, flags), panels in groups.items())


def _line(table: Table, panels: Sequence[str], flags: Sequence[str]) -> str:
    usual = table.fast if FAST in flags and table.fast else [panel.name for panel in table.panels]
    chosen = [] if set(panels) == set(usual) else [f"--panels={','.join(panels)}"]
    return " ".join(["python experiments/reproduce.py", f"--table={table.name}", *chosen, *flags])


def _panel_flags(ran: RanPanel) -> list[str]:
    """What was changed of the panel, as flags; from its fast settings where that takes fewer."""
    names = [entry.name for entry in ran.panel.rows]
    there = [name for name in names if name in ran.rows]
    ways = []
    for fast in (False, True):
        config = ran.panel.get_config()
        if fast:
            config.make_fast()
        usual = ran.panel.fast if fast and ran.panel.fast else names
        rows = [] if set(there) == set(usual) else [f"--rows={','.join(there)}"]
        found = differences(panel_identity(config), ran.config)
        ways.append([*([FAST] if fast else []), *rows, *(_table_flag(*one) for one in found)])
    return min(ways, key=len)


def _table_flag(field: str, value: Any) -> str:
    text = shlex.quote(str(tuple(value) if isinstance(value, (tuple, list)) else value))
    return f"--{field}={text}" if field in FLAGS else f"--set={field}={text}"


def differences(
    defaults: Mapping[str, Any], values: Mapping[str, Any], owner: str = ""
) -> Iterator[tuple[str, Any]]:
    """The fields, dotted, whose value is another than the default, with that value."""
    further = [name for name in values if owner and name not in defaults]  # a model's option set by a flag
    for name in (*defaults, *further):
        default, value, field = defaults.get(name), values.get(name), f"{owner}{name}"
        if value is None:
            continue
        if isinstance(default, Mapping):
            yield from differences(default, value, f"{field}.")
        elif (list(value) != list(default)) if isinstance(default, (tuple, list)) else value != default:
            yield field, value
