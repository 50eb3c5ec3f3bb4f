"""README: its commands, links and example hold, and its numbers are those of the stored results."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import autofusion_jax as af
from autofusion_jax.evaluation.results import read_results, summarise
from autofusion_jax.evaluation.tables import markdown_rows
from reporting.published import mean_and_spread

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE, FILES = re.findall(r"```python\n(.*?)```", README, re.S)
PANELS = ("mnist_mlp", "mnist_vgg", "fashion_vgg", "kmnist_vgg", "cifar10_vgg")
ROWS = {
    "average": ("interpolation", None),
    "`weight_matching`": ("weight_matching", None),
    "`autofusion`": ("autofusion", "soft"),
    "`prune_concat_distill`": ("prune_concat_distill", None),
    "control: fresh network": ("control_random_network", None),
    "control: A's body, new head": ("control_ridge_head", None),
}


def results_table():
    """The rows of README's table, from the stored records."""
    panels = [
        {(row.method, row.variant): row for row in summarise(records)}
        for panel in PANELS
        if (records := read_results(ROOT / "docs" / "results" / "unlabelled" / panel / "results.jsonl"))
    ]
    titles = ["", "MNIST, MLP", "MNIST, VGG", "Fashion, VGG", "KMNIST, VGG", "CIFAR-10, VGG"]
    lines = [
        [name, *(mean_and_spread(panel.get(row), "joint") for panel in panels)] for name, row in ROWS.items()
    ]
    return markdown_rows([titles, *lines])


def test_the_results_table_is_that_of_the_stored_records():
    assert results_table() in README


def test_links_and_pictures_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_addresses_and_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    home, version = project["urls"]["Homepage"], project["version"]
    files = ("README.md", "CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml", "pyproject.toml")
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in files}
    for name, text in texts.items():
        found = re.findall(r"https://github\.com/[\w-]+/autofusion_jax", text)
        assert {*found} <= {home}, name
        pages = re.findall(r"https://[\w-]+\.github\.io/[\w-]+", text)
        assert {*pages} <= {project["urls"]["Documentation"]}, name
    assert f"\nversion: {version}\n" in texts["CITATION.cff"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_it_is_short():
    lines = README.splitlines()
    unbreakable = ("http", "](", ".venv/bin")
    assert len(lines) <= 150
    assert all(len(line) <= 120 or any(part in line for part in unbreakable) for line in lines)


def test_the_first_two_commands_install_from_the_projects_files():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.S)[:2]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert "--config=mnist_vgg" in commands[0] and commands[1].endswith("pytest -n auto")


def test_methods_that_are_named_exist():
    table = README.split("## Which method")[1].split("##")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert len(named) >= 6 and named <= {*af.list_methods()}


@pytest.fixture(scope="module")
def example():
    """README's example, run as it stands: the names that it defines, and what it prints."""
    printed = []
    names = {"print": lambda *values: printed.append(values)}
    exec(EXAMPLE, names)
    return names, printed


def test_the_example_prints_what_it_says(example):
    _, printed = example
    said = re.search(r"It prints about ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+)\.", README).groups()
    assert [name for name, _ in printed] == ["A", "B", "average", "merged"]
    assert [float(value) for _, value in printed] == pytest.approx([float(value) for value in said], abs=0.03)


def test_task_vectors_and_files_are_merged_as_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, _ = example
    names = names | {"base": names["a"]}
    for file, params in {"a": names["a"], "b": names["b"], "base": names["base"]}.items():
        save_file({key: leaf.__array__() for key, leaf in params.items()}, f"{file}.safetensors")
    exec(FILES, names)
    assert (tmp_path / "merged.safetensors").stat().st_size > 0


def lead_over_a_fresh_network(panel):
    """Points of joint accuracy by which the best merge is above the control that merges nothing."""
    records = read_results(ROOT / "docs" / "results" / panel / "results.jsonl")
    merge, control = (
        np.mean([record.metrics["joint"] for record in records if record.method == method])
        for method in ("prune_concat_distill", "control_random_network")
    )
    return merge - control


def test_limits_are_those_of_the_stored_records():
    on = {panel: lead_over_a_fresh_network(f"unlabelled/{panel}") for panel in PANELS}
    assert abs(on["mnist_mlp"]) < 0.1 and abs(on["mnist_vgg"]) < 0.1  # "as well as the best merge on MNIST"
    assert on["kmnist_vgg"] < -1 and on["cifar10_vgg"] > 5  # "better on KMNIST"; "hard (CIFAR-10)"
    of = {images: lead_over_a_fresh_network(f"inputs/{images}") for images in (100, 300, 1000, 2000, 5000)}
    assert min(of[100], of[300], of[1000]) > 1 and max(of[2000], of[5000]) < 0.5  # "few (below about 2,000)"
