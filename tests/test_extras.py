"""Optional packages: what runs without them, and the one line that names the missing extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autofusion_jax.extras import OPTIONAL

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({modules}))\n"


def run_without(modules, code, *args):
    """Run code in a process in which modules cannot be imported."""
    command = [sys.executable, "-c", WITHOUT.format(modules=list(modules)) + code, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_every_optional_package_is_in_its_extra():
    for package, extra in OPTIONAL.values():
        assert any(re.match(rf"{package}\b(?!-)", line) for line in EXTRAS[extra]), (package, extra)


MISSING = [
    ("orbax.checkpoint", "af.save('x', {})", "af.save", "orbax-checkpoint", "checkpoints"),
    ("orbax.checkpoint", "af.load('x')", "af.load", "orbax-checkpoint", "checkpoints"),
    ("flax", "af.load_pretrained('x')", "af.load_pretrained", "flax", "models"),
    ("flax", "import autofusion_jax.models.registry", "autofusion_jax.models", "flax", "models"),
    ("matplotlib", "import autofusion_jax.plots.canvas", "autofusion_jax.plots", "matplotlib", "report"),
]


@pytest.mark.parametrize(("module", "code", "what", "package", "extra"), MISSING)
def test_a_missing_extra_is_one_line(module, code, what, package, extra):
    done = run_without([module], f"import autofusion_jax as af\n{code}")
    message = f"{what} needs {package}: pip install 'autofusion_jax[{extra}]'"
    assert done.stderr.splitlines()[-1].endswith(f"MissingExtra: {message}")


@pytest.mark.parametrize("script", ["merge.py", "report.py"])
def test_a_script_without_its_extra_says_so_and_ends_with_status_2(script):
    code = f"import runpy; sys.argv = ['{script}']; sys.path[0] = 'experiments'\n"
    done = run_without(
        ["ml_collections"], f"{code}runpy.run_path('experiments/{script}', run_name='__main__')"
    )
    message = f"experiments/{script} needs ml-collections: pip install 'autofusion_jax[experiments]'"
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


CORE_ONLY = """
import jax, jax.numpy as jnp
import autofusion_jax as af

def apply_fn(params, x):
    return jax.nn.relu(x @ params["up"]) @ params["down"]

def network(key):
    up, down = jax.random.split(key)
    return {"up": jax.random.normal(up, (5, 8)), "down": jax.random.normal(down, (8, 3))}

a, b = map(network, jax.random.split(jax.random.key(0)))
x = jax.random.normal(jax.random.key(1), (16, 5))
spec = af.infer_perm_spec(apply_fn, a, x)
for method in ("weight_matching", "prune_concat", "zipit"):
    assert apply_fn(af.merge(a, b, spec, x, method=method).params, x).shape == (16, 3)
"""


def test_merging_needs_no_extra():
    done = run_without(OPTIONAL, CORE_ONLY)
    assert done.returncode == 0, done.stderr
