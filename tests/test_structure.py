"""The layering of the package, its public names, and the cost of importing it."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import autofusion_jax as af

PACKAGE = Path(af.__file__).parent
LAYERS = [
    {"types", "trees", "validation"},
    {"symmetry", "transport", "batching", "data"},
    {"models", "checkpoints", "runtime"},
    {"training", "merging"},
    {"evaluation"},
    {"reporting"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(module):
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(path):
        if module.startswith("autofusion_jax."):
            assert LEVEL[part(module)] <= LEVEL[here], f"{path} imports {module}"
        if here not in {"models", "training"}:
            assert module.split(".")[0] != "flax", f"{path} imports flax"
        if here == "merging":
            assert part(module) not in {"models", "training"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 45, f"{path}: {node.name} has {length} lines"


def test_public_names_are_documented():
    for name in af.__all__:
        assert inspect.getdoc(getattr(af, name)), name


def test_import_is_light():
    heavy = ["flax", "tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "sklearn"]
    code = f"import sys, autofusion_jax; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
