"""`draw_spec.py` from end to end on digits."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from autofusion_jax.symmetry.spec import PermSpec
from tests.experiments.test_cli import ROOT, command, run

pytestmark = pytest.mark.slow

FILES = ("perm_spec.md", "perm_spec.json", "perm_spec.svg", "perm_spec.png", "perm_spec_config.json")


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("inspected")
    return cwd, run("draw_spec.py", "--config=digits_mlp", "--config.model.widths=(12,10)", cwd=cwd).stdout


def test_it_writes_what_it_says(inspected):
    cwd, printed = inspected
    (folder,) = (cwd / "runs").glob("digits_mlp-*")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert f"permutation spec in {folder.relative_to(cwd)}: {', '.join(FILES)}" in " ".join(printed.split())
    assert "params/dense_1/kernel" in printed and "in dense_0:12, out dense_1:10" in printed
    spec = PermSpec.from_json((folder / "perm_spec.json").read_text())
    assert {name: group.size for name, group in spec.groups.items()} == {"dense_0": 12, "dense_1": 10}
    table = (folder / "perm_spec.md").read_text()
    assert (
        "| params/dense_0/kernel | (64, 12) | 64, out dense_0:12 |" in table
        and "| dense_1 | 10 |  |" in table
    )
    assert json.loads((folder / "perm_spec_config.json").read_text())["model"]["widths"] == [12, 10]
    assert "dense_1" in (folder / "perm_spec.svg").read_text()
    with Image.open(folder / "perm_spec.png") as image:
        assert image.format == "PNG"


def test_it_writes_beside_a_run_of_the_same_model_only(tmp_path):
    (tmp_path / "out").mkdir()
    stored = {"model": {"widths": [12, 10], "name": "mlp"}, "data": {"name": "digits"}}
    (tmp_path / "out" / "config.json").write_text(json.dumps(stored))
    args = "--config=digits_mlp", "--config.out_dir=out"
    done = run("draw_spec.py", *args, cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: inspect: out_dir must be new or hold a run of the same model; out")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out" / "perm_spec.md").exists()
    run("draw_spec.py", *args, "--config.model.widths=(12,10)", cwd=tmp_path)
    assert (tmp_path / "out" / "perm_spec.md").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == stored


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "error: --config=NAME must come first"),
        (["--config=digit_mlp"], "Did you mean 'digits_mlp'"),
        (["--config=digits_mlp", "--config.out_dir=/proc/none"], "/proc/none"),
        (["--config=digits_mlp", "stray"], "unknown argument 'stray'"),
    ],
)
def test_errors_are_one_line(tmp_path, args, message):
    done = run("draw_spec.py", *args, cwd=tmp_path, status=2)
    assert message in done.stderr and done.stderr.strip().count("\n") == 0 and "Traceback" not in done.stderr


def test_help_says_what_it_does_and_lists_the_configs(tmp_path):
    printed = subprocess.run(
        command("draw_spec.py", "--help"), cwd=tmp_path, capture_output=True, text=True, timeout=60
    ).stdout
    assert "Derive the permutation groups" in printed and "mnist_vgg_paper" in printed


def test_no_script_shadows_the_standard_library():
    names = {path.stem for path in (ROOT / "experiments").iterdir()}
    assert not names & sys.stdlib_module_names
