"""The README's tables are those of the stored results, and its commands and links hold."""

import json
import re
from pathlib import Path

import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import MODELS
from autofusion_jax.reporting.records import read_records
from configs import CONFIGS
from tables import find_panel
from tables.report import panel_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPRODUCED = {
    path.parent: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs" / "results").rglob("config.json"))
    if (path.parent / "results.md").is_file()
}


@pytest.mark.parametrize("folder", REPRODUCED, ids=lambda p: p.name)
def test_reproduced_tables_are_those_of_their_records(folder):
    stored = REPRODUCED[folder]
    _, panel = find_panel(stored["table"], stored.get("panel", ""))
    assert panel_markdown(panel, read_records(folder / "results.jsonl")) in README


def test_there_are_results():
    assert {(stored["table"], stored.get("panel", "")) for stored in REPRODUCED.values()} >= {
        ("best", "mnist_mlp"), ("mudsc_s1", ""),
    }  # fmt: skip


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
