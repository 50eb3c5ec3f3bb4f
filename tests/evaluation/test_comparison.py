"""Comparison of methods on networks of one's own: a bare `apply_fn`, every row, the files of the report."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import autofusion_jax as af
from autofusion_jax.evaluation import compare, read_results

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 6)).astype(np.float32), np.arange(60) % 4
TASKS = [[0, 1], [2, 3]]


def apply_fn(params, x):
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def init(key):
    up, down = jax.random.split(key)
    return {"up": jax.random.normal(up, (6, 8)), "down": jax.random.normal(down, (8, 4))}


def compared(**options):
    models = [init(jax.random.key(k)) for k in range(2)]
    spec = af.infer_perm_spec(apply_fn, models[0], X[:4])
    console = Console(file=io.StringIO(), width=150)
    usual = {"test": (X, Y), "tasks": TASKS, "methods": ["average", "weight_matching"], "console": console}
    found = compare(models, spec, jnp.asarray(X), **{**usual, **options})
    return found, console.file.getvalue(), models, spec


@pytest.mark.slow
def test_own_networks_in_the_table_and_the_files_of_the_report(tmp_path):
    ties = af.methods.ties(scale=0.3)
    options = {"methods": ["average", "weight_matching", ties], "base": init(jax.random.key(9)), "init": init}
    found, printed, models, spec = compared(out=tmp_path / "mine", repeats=2, **options)
    assert [row.method for row in found.rows] == [
        "model_a", "model_b", "average", "weight_matching", "ties", "teacher_confidence", "teacher_z",
        "teacher_em", "control_model_a", "control_random_network",
    ]  # fmt: skip
    assert {row.method: row.num_repeats for row in found.rows}["weight_matching"] == 2
    mean = af.merge(*models, spec, None, method="average").params
    right = np.asarray(apply_fn(mean, X)).argmax(-1) == Y
    assert found.rows[2].mean["joint"] == pytest.approx(100 * right.mean())
    folder = tmp_path / "mine"
    assert read_results(folder / "results.jsonl") == list(found.results)
    assert "| Git Re-Basin |" in (folder / "table.md").read_text() and "Git Re-Basin" in printed
    about = json.loads((folder / "config.json").read_text())
    assert about["name"] == "mine" and about["methods"][1]["options"]["max_sweeps"] == 100
    assert f"results in {folder}: results.jsonl, table.md, config.json" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": [[0, 1, 2, 3]]}, "compare: tasks must be 2, one a network; got 1"),
        ({"methods": ["averige"]}, "unknown method 'averige'. Did you mean 'average'"),
        ({"repeats": 0}, "compare: repeats must be an integer >= 1; got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        compared(**options)
