"""The layering of the package, its public names, and what importing it loads."""

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autofusion_jax as af
from autofusion_jax.extras import OPTIONAL

PACKAGE = Path(af.__file__).parent
LAYERS = [
    {
        "types",
        "arguments",
        "trees",
        "validation",
        "precision",
        "programs",
        "atomic",
        "runtime",
        "extras",
        "html_tables",
        "json_reader",
    },
    {"partition"},
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


def runs_at_import(tree):
    """The statements of a module, without those for type checkers alone and those inside of functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from runs_at_import(node)


def module_graph():
    """Module of the package -> the modules of it that it imports."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        found = graph[module] = set()
        for node in runs_at_import(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                found |= names & set(modules) - {module}
    return graph


def expect_no_circle(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_imports_form_no_circle():
    """Neither the modules do, nor the folders inside of merging."""
    graph = module_graph()
    expect_no_circle(graph)

    def room(module):
        return ".".join(module.split(".")[:3]) if module.startswith("autofusion_jax.merging.") else ""

    rooms = {}
    for module, others in graph.items():
        rooms.setdefault(room(module), set()).update(map(room, others))
    del rooms[""]
    expect_no_circle({name: others - {name, ""} for name, others in rooms.items()})


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
