"""The README's tables are those of the stored results, and its commands and links hold."""

import json
import re
from pathlib import Path

import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import MODELS
from autofusion_jax.reporting.records import read_records, summarise
from autofusion_jax.reporting.tables import markdown_table
from configs import CONFIGS
from tables import find_panel
from tables.report import panel_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = sorted(path.with_name("results.jsonl") for path in (ROOT / "docs" / "results").glob("*/table.md"))

REPRODUCED = {
    path.parent: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs" / "results").rglob("config.json"))
    if (path.parent / "results.md").is_file()
}


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.parent.name)
def test_tables_come_from_records(path):
    records = read_records(path)
    assert {record.config for record in records} == {path.parent.name}
    assert markdown_table(summarise(records)) in README


@pytest.mark.parametrize("folder", REPRODUCED, ids=lambda p: p.name)
def test_reproduced_tables_are_those_of_their_records(folder):
    stored = REPRODUCED[folder]
    _, panel = find_panel(stored["table"], stored.get("panel", ""))
    assert panel_markdown(panel, read_records(folder / "results.jsonl")) in README


def test_there_are_results():
    assert {path.parent.name for path in RESULTS} >= {"mnist_vgg", "mnist_mlp"}


def test_links_and_pictures_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links and all((ROOT / link).exists() for link in links)


def test_every_method_model_and_config_is_named():
    for name in (*af.list_methods(), *MODELS, *(name for name in CONFIGS if not name.endswith("_paper"))):
        assert f"`{name}`" in README, name


def test_the_first_two_commands_install_from_the_projects_files():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.S)[:2]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert "--config=mnist_vgg" in commands[0] and commands[1].endswith("pytest -n auto")
