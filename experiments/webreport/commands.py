"""The command that a run can be made again with, and the settings a reader wants to see of it."""

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from configs import CONFIGS, get_config
from configs.schema import identity
from tables import find_panel
from tables.commands import RanPanel, differences, table_command
from webreport.collect import RunFolder

PLACES = ("out_dir", "runs_dir")
"""Fields that say where files lay on the machine of the run: no setting."""


def shown_config(run: RunFolder) -> dict[str, Any]:
    """The resolved settings but where files lay, with the rows of a table."""
    config = {name: value for name, value in run.config.items() if name not in PLACES}
    if isinstance(config.get("data"), Mapping):
        config["data"] = {name: value for name, value in config["data"].items() if name != "dir"}
    return {"table": run.table, "config": config, "rows": dict(run.rows)} if run.table else config


def setting_lines(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings as lines of name and value, a row of a table on one line; what is empty is left out.

    Example:
        >>> setting_lines({"config": {"seed": 0, "data": {"name": "digits", "extra": []}},
        ...                "rows": {"average": {"method": "average", "options": {}}}})
        ['config.seed = 0', 'config.data.name = "digits"', 'rows.average = {"method": "average"}']
    """
    lines = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and prefix != "rows.":
            lines += setting_lines(value, f"{prefix}{name}.")
        elif not _empty(value):
            kept = _filled(value) if isinstance(value, Mapping) else value
            lines.append(f"{prefix}{name} = {json.dumps(kept, ensure_ascii=False)}")
    return lines


def _filled(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not _empty(value)}


def _empty(value: Any) -> bool:
    return value is None or value in ({}, [], "")


def command(runs: Sequence[RunFolder]) -> str | None:
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


def _ran_panel(run: RunFolder) -> RanPanel | None:
    try:
        table, panel = find_panel(run.table or "", run.panel or "")
    except KeyError:
        return None
    return RanPanel(table, panel, run.config, {record.method for record in run.records})


def changes(run: RunFolder) -> list[str]:
    """What a run of `merge.py` changed of its config, as flags; nothing for a config that is no more."""
    if run.table or run.name not in CONFIGS:
        return []
    return [_config_flag(*one) for one in differences(identity(get_config(run.name)), shown_config(run))]


def _config_flag(field: str, value: Any) -> str:
    if isinstance(value, (tuple, list)):
        names = all(isinstance(item, str) for item in value)
        value = ",".join(value) if names else tuple(value)
    return f"--config.{field}={shlex.quote(str(value))}"


def title_of_run(run: RunFolder, runs: Sequence[RunFolder]) -> str:
    """The name of a run of `merge.py`, with what sets it apart from the other `runs` of its config."""
    same = [set(changes(other)) for other in runs if other.name == run.name]
    own = [flag for flag in changes(run) if any(flag not in flags for flags in same)]
    text = ", ".join(flag.removeprefix("--config.").replace("'", "") for flag in own)
    return f"{run.name} ({text})" if text else run.name


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
