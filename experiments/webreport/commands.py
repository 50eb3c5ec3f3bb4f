"""The command that a run can be made again with, and the settings a reader wants to see of it."""

import itertools
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from configs import CONFIGS, get_config
from configs.schema import identity
from tables import find_panel
from tables.runner import panel_identity
from tables.schema import Panel, Table
from tables.settings import make_fast
from webreport.collect import Run

PLACES = ("out_dir", "runs_dir")
"""Fields that say where files lay on the machine of the run: no setting."""
FLAGS = ("pairs", "seed")
"""Fields of a table's settings that have a flag of their own in `reproduce.py`."""
FAST = "--fast"


class RanPanel(NamedTuple):
    """A panel of a table as it was run: its settings then, and the names of the rows that were run."""

    table: Table
    panel: Panel
    config: Mapping[str, Any]
    rows: Collection[str]


def shown_config(run: Run) -> dict[str, Any]:
    """The resolved settings but where files lay, with the rows of a table."""
    config = {name: value for name, value in run.config.items() if name not in PLACES}
    if isinstance(config.get("data"), Mapping):
        config["data"] = {name: value for name, value in config["data"].items() if name != "dir"}
    return {"table": run.table, "config": config, "rows": dict(run.rows)} if run.table else config


def command(runs: Sequence[Run]) -> str | None:
    """The command of one run, or of the panels of one table, a line each where their settings differ.

    As stored, or from the settings: what was changed of the config or of the panel follows as flags.
    None for a config, or for panels, that are no more.
    """
    first = runs[0]
    if first.command:
        return first.command
    if first.table:
        return table_command([one for one in map(_ran_panel, runs) if one]) or None
    if first.name not in CONFIGS:
        return None
    return " ".join(["python experiments/merge.py", f"--config={first.name}", *changes(first)])


def _ran_panel(run: Run) -> RanPanel | None:
    try:
        table, panel = find_panel(run.table or "", run.panel or "")
    except KeyError:
        return None
    return RanPanel(table, panel, run.config, {record.method for record in run.records})


def table_command(ran: Sequence[RanPanel]) -> str:
    """The command that runs these panels again; a line for each group of equal settings and rows.

    Example:
        >>> table, panel = find_panel("5", "shared")
        >>> table_command([RanPanel(table, panel, {"pairs": 1}, [entry.name for entry in panel.entries])])
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
    names = [entry.name for entry in ran.panel.entries]
    there = [name for name in names if name in ran.rows]
    ways = []
    for fast in (False, True):
        config = ran.panel.get_config()
        if fast:
            make_fast(config)
        usual = ran.panel.fast if fast and ran.panel.fast else names
        rows = [] if set(there) == set(usual) else [f"--rows={','.join(there)}"]
        found = _differences(panel_identity(config), ran.config)
        ways.append([*([FAST] if fast else []), *rows, *(_table_flag(*one) for one in found)])
    return min(ways, key=len)


def _table_flag(field: str, value: Any) -> str:
    text = shlex.quote(str(tuple(value) if isinstance(value, (tuple, list)) else value))
    return f"--{field}={text}" if field in FLAGS else f"--set={field}={text}"


def changes(run: Run) -> list[str]:
    """What a run of `merge.py` changed of its config, as flags; nothing for a config that is no more."""
    if run.table or run.name not in CONFIGS:
        return []
    return [_config_flag(*one) for one in _differences(identity(get_config(run.name)), shown_config(run))]


def _config_flag(field: str, value: Any) -> str:
    if isinstance(value, (tuple, list)):
        names = all(isinstance(item, str) for item in value)
        value = ",".join(value) if names else tuple(value)
    return f"--config.{field}={shlex.quote(str(value))}"


def title_of_run(run: Run, runs: Sequence[Run]) -> str:
    """The name of a run of `merge.py`, with what sets it apart from the other `runs` of its config."""
    same = [set(changes(other)) for other in runs if other.name == run.name]
    own = [flag for flag in changes(run) if any(flag not in flags for flags in same)]
    text = ", ".join(flag.removeprefix("--config.").replace("'", "") for flag in own)
    return f"{run.name} ({text})" if text else run.name


def _differences(
    defaults: Mapping[str, Any], values: Mapping[str, Any], owner: str = ""
) -> Iterator[tuple[str, Any]]:
    """The fields, dotted, whose value is another than the default, with that value."""
    for name, default in defaults.items():
        value, field = values.get(name), f"{owner}{name}"
        if value is None:
            continue
        if isinstance(default, Mapping):
            yield from _differences(default, value, f"{field}.")
        elif (list(value) != list(default)) if isinstance(default, (tuple, list)) else value != default:
            yield field, value


def describe(config: Mapping[str, Any]) -> str:
    """The setting of a config in one sentence; empty where its fields are unknown.

    Example:
        >>> describe({"data": {"name": "digits", "num_unlabelled": 500}, "model": {"name": "mlp",
        ...           "widths": [64, 64]}, "train": {"epochs": 40}})
        'digits; mlp of widths 2 × 64; specialists trained for 40 epochs; 500 unlabelled images'
    """
    data, model, train = (_part(config, name) for name in ("data", "model", "train"))
    parts = [str(data["name"])] if "name" in data else []
    if "widths" in model:
        runs = [(width, len(list(group))) for width, group in itertools.groupby(model["widths"])]
        widths = ", ".join(f"{count} × {width}" if count > 1 else str(width) for width, count in runs)
        parts.append(f"{model.get('name', 'network')} of widths {widths}")
    if "epochs" in train:
        unit = "epoch" if train["epochs"] == 1 else "epochs"
        parts.append(f"specialists trained for {train['epochs']} {unit}")
    if "num_unlabelled" in data:
        parts.append(f"{data['num_unlabelled']:,} unlabelled images")
    return "; ".join(parts)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}
