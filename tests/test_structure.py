"""The layering of the package, its public names, and what importing it loads."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import autofusion_jax as af
from autofusion_jax.extras import OPTIONAL

PACKAGE = Path(af.__file__).parent
LAYERS = [
    {"types", "trees", "validation", "atomic", "runtime", "extras", "html_tables"},
    {"transport", "batching"},
    {"symmetry"},
    {"models", "checkpoints", "plots"},
    {"merging", "methods", "functional"},
    {"evaluation"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
USERS = {"flax": "models", "matplotlib": "plots", "PIL": "plots", "orbax.checkpoint": "checkpoints"}
"""Optional package -> the only part that imports it, after `extras.need`."""


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
            for optional in OPTIONAL:
                if module == optional or module.startswith(f"{optional}."):
                    assert USERS.get(optional) == here, f"{path} imports {module}"
            if here == "merging":
                assert part(module) != "models", f"{path} imports {module}"


def test_public_names_are_documented():
    for name in af.__all__:
        assert inspect.getdoc(getattr(af, name)), name


def test_public_names_are_in_the_api_pages():
    pages = "".join(page.read_text() for page in (PACKAGE.parent / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: autofusion_jax\.(\w+)$", pages, re.M))
    formulas = set(vars(af.functional))  # all on one page
    assert {*af._HOME} - formulas <= shown


def test_editors_see_the_names_that_are_imported_lazily():
    seen = {
        alias.asname: alias.name
        if node.module == PACKAGE.name
        else node.module.removeprefix("autofusion_jax.")
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith(PACKAGE.name)
        for alias in node.names
    }
    assert seen == af._HOME
    assert dir(af) == sorted([*seen, "__version__"])


def loaded_by(code, names):
    code = f"import sys; {code}; print(*[m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_is_light():
    assert loaded_by("import autofusion_jax", ["jax", "numpy", *OPTIONAL]) == []
    assert loaded_by("import autofusion_jax as af; af.merge; af.load", [*OPTIONAL]) == []
