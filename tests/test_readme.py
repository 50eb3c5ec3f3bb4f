"""The README's tables are those of the stored results, and its commands and links hold."""

import json
import re
from pathlib import Path

import numpy as np

import autofusion_jax as af
from autofusion_jax.evaluation.results import read_results
from autofusion_jax.models.registry import MODELS
from configs import CONFIGS
from tables import find_panel
from tables.overview import overview_markdown
from tables.report import panel_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPRODUCED = {
    path.parent: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs" / "results").rglob("config.json"))
    if (path.parent / "results.md").is_file()
}


def records_of(folder):
    return read_results(folder / "results.jsonl")


def test_results_tables_are_those_of_stored_records():
    """Every table of numbers in README is a panel's, or the overview of all panels that are stored."""
    panels = {
        folder: find_panel(stored["table"], stored.get("panel", "")) for folder, stored in REPRODUCED.items()
    }
    texts = {panel_markdown(panel, records_of(folder)) for folder, (_, panel) in panels.items()}
    for table in {table.name: table for table, _ in panels.values() if table.overview}.values():
        stored = {panel.name: records_of(folder) for folder, (one, panel) in panels.items() if one is table}
        texts.add(overview_markdown(table, stored))
        assert overview_markdown(table, stored) in README, table.name
    found = re.findall(r"(?:^\|.*\|\n)+", README, re.M)
    numbers = [text for text in found if re.search(r"\d\.\d\d ", text)]
    assert len(numbers) >= 4 and set(numbers) <= texts


def joint_of(panel, method, variant=None):
    """The joint accuracy of a row, pair by pair."""
    records = records_of(ROOT / "docs" / "results" / "unlabelled" / panel)
    return [r.metrics["joint"] for r in records if (r.method, r.variant) == (method, variant)]


GOALS = [
    ("autofusion", "soft", 94, 95), ("autofusion", "hard", 93, 93), ("prune_concat_distill", None, 95.5, 97),
]  # fmt: skip


def test_goals_are_reached_as_often_as_it_says():
    for method, variant, *goals in GOALS:
        for panel, goal in zip(("mnist_mlp", "mnist_vgg"), goals):
            found = joint_of(panel, method, variant)
            assert len(found) == 5 and np.mean(found) >= goal, (panel, method)
    above = [
        sum(
            best >= teacher
            for best, teacher in zip(joint_of(panel, "prune_concat_distill"), joint_of(panel, "teacher_em"))
        )
        for panel in ("mnist_mlp", "mnist_vgg")
    ]
    assert f"{above[0]} of 5 of the MLP, {above[1]} of 5 of the VGG" in README
    best, teacher = (
        round(84 - np.mean(joint_of("fashion_mlp", row))) for row in ("prune_concat_distill", "teacher_em")
    )
    assert f"missed by {best}; the teacher itself misses it by {teacher}." in README


def test_there_are_results():
    assert {(stored["table"], stored.get("panel", "")) for stored in REPRODUCED.values()} >= {
        ("unlabelled", "mnist_mlp"), ("mudsc_s1", ""),
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
