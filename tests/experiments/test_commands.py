"""Commands on the results page: given again, they lead to the same settings."""

import json
import shlex

import pytest

from tables import find_panel
from tables.commands import RanPanel, table_command
from tables.settings import override
from tables.stored import panel_identity
from tests.experiments.report_runs import HOSTILE, write_all, write_merge
from webreport.collect import collect
from webreport.commands import command, title_of_run


def test_commands_repeat_what_was_changed(tmp_path):
    runs, _ = collect(write_all(tmp_path))
    by_name = {run.name: run for run in runs}
    assert command([by_name["digits_mlp"]]) == (
        "python experiments/merge.py --config=digits_mlp --config.pairs=2"
    )
    assert command([by_name["1/vgg"]]) is None  # no panel of that name
    assert command([by_name[HOSTILE]]) is None


def ran_panel(table, panel, rows=None, *, fast=False, **changes):
    """A panel as it is stored after a run: its settings through JSON, with some changed."""
    table, panel = find_panel(table, panel)
    config = panel.get_config()
    if fast:
        config.make_fast()
    for field, value in changes.items():
        override(config, f"{field.replace('__', '.')}={value}")
    stored = json.loads(json.dumps({**panel_identity(config), "data_sha256": "0"}))
    return RanPanel(table, panel, stored, rows or [entry.name for entry in panel.rows])


@pytest.mark.parametrize(
    ("ran", "flags"),
    [
        (
            [("unlabelled", "mnist_vgg", None, {"pairs": 3})],
            ["--table=unlabelled --panels=mnist_vgg --pairs=3"],
        ),
        ([("4", "", None, {})], ["--table=4"]),
        ([("4", "", None, {"seed": 0})], ["--table=4 --seed=0"]),
        ([("5", "disjoint", None, {}), ("5", "shared", None, {})], ["--table=5"]),
        (
            [("5", "disjoint", None, {}), ("5", "shared", None, {"pairs": 1})],
            ["--table=5 --panels=disjoint", "--table=5 --panels=shared --pairs=1"],
        ),
        (
            [("5", "shared", ["omega_a_0.1", "model_a", "gone"], {"train__epochs": 7})],
            ["--table=5 --panels=shared --rows=model_a,omega_a_0.1 --set=train.epochs=7"],
        ),
        (
            [("inputs", "100", None, {"model__widths": "(8,)", "data__name": "digits"})],
            ["--table=inputs --panels=100 --set=data.name=digits --set=model.widths='(8,)'"],
        ),
        (
            [("5", "disjoint", find_panel("5", "disjoint")[1].fast, {"fast": True, "merge__epochs": 3})],
            ["--table=5 --fast --set=merge.epochs=3"],
        ),
        ([("5", "disjoint", None, {"pairs": 1})], ["--table=5 --panels=disjoint --pairs=1"]),
    ],
)
def test_commands_repeat_tables(ran, flags):
    expected = "\n".join(f"python experiments/reproduce.py {text}" for text in flags)
    assert table_command([ran_panel(*names, **changes) for *names, changes in ran]) == expected


def test_commands_of_tables_give_their_settings():
    """Read as `reproduce.py` reads its flags, they lead to what was stored."""
    changes = {"seed": 7, "train__learning_rate": 0.5, "train__augment": True, "task__sizes": "(2, 8)",
               "data__name": "digits+mnist", "train__optimizer": "sgd"}  # fmt: skip
    ran = ran_panel("unlabelled", "mnist_mlp", **changes)
    config = ran.panel.get_config()
    for flag in shlex.split(table_command([ran])):
        if flag.startswith(("--set=", "--seed=")):
            override(config, flag.removeprefix("--set=").removeprefix("--"))
    assert json.loads(json.dumps({**panel_identity(config), "data_sha256": "0"})) == ran.config


def test_runs_of_one_config_are_told_apart(tmp_path):
    for pairs in (1, 2, 3):
        write_merge(tmp_path / f"run{pairs}", pairs=pairs)
    runs, _ = collect(tmp_path)
    titles = [title_of_run(run, runs) for run in runs]
    assert titles == ["digits_mlp", "digits_mlp (pairs=2)", "digits_mlp (pairs=3)"]
    assert title_of_run(runs[2], runs[2:]) == "digits_mlp"
