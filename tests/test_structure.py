"""The layering of the package, its public names, and the cost of importing it."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import autofusion_jax as af

PACKAGE = Path(af.__file__).parent
LAYERS = [
    {"types", "trees", "validation", "atomic", "runtime"},
    {"transport", "batching"},
    {"symmetry"},
    {"models", "checkpoints", "plots"},
    {"merging"},
    {"evaluation"},
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


def test_imports_go_downward():
    for path in FILES:
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for module in imports(path):
            if module.startswith("autofusion_jax."):
                assert LEVEL[part(module)] <= LEVEL[here], f"{path} imports {module}"
            if here not in {"models", "checkpoints"}:
                assert module.split(".")[0] != "flax", f"{path} imports flax"
            if here == "merging":
                assert part(module) != "models", f"{path} imports {module}"


def test_public_names_are_documented():
    for name in af.__all__:
        assert inspect.getdoc(getattr(af, name)), name


def test_import_is_light():
    heavy = ["flax", "tensorflow", "tensorflow_datasets", "matplotlib", "orbax", "sklearn"]
    code = f"import sys, autofusion_jax; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
