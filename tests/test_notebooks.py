"""The notebooks of the documentation run, and what they claim holds: they assert it themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.glob("*.py") if "# %% [markdown]" in path.read_text("utf-8"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 7


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_claims_are_asserted(path):
    assert "\nassert " in path.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """As a script: a notebook is plain Python."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
