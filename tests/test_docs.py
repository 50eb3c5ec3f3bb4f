"""The documentation: its examples run, its links lead somewhere, its tables hold."""

import importlib.util
import re
from pathlib import Path

import pytest

import autofusion_jax as af

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("**/*.md") if "results" not in path.relative_to(DOCS).parts)
NAMES = [str(path.relative_to(DOCS)) for path in PAGES]
WITH_NOTES = [*zip(PAGES, NAMES), (ROOT / "BUILD_NOTES.md", "BUILD_NOTES.md")]
BLOCK = re.compile(r"(?P<skip><!-- not run: .+? -->\n+)?^```python\n(?P<code>.*?)^```$", re.M | re.S)
"""A block of Python; a comment before it says why it is not run."""

LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
MAX_COLUMNS = 120


def generated() -> dict[str, str]:
    """The pages that are made while the documentation is built."""
    spec = importlib.util.spec_from_file_location("results_pages", DOCS / "hooks" / "results_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages(DOCS)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_run(page, tmp_path, monkeypatch):
    """All blocks of a page, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    text, namespace = page.read_text(encoding="utf-8"), {"__name__": "page"}
    for block in BLOCK.finditer(text):
        if not block["skip"]:
            lines_before = text.count("\n", 0, block.start("code"))
            exec(compile("\n" * lines_before + block["code"], str(page), "exec"), namespace)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in titles]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


def test_links_lead_somewhere():
    made = generated()
    wrong = []
    for page, name in WITH_NOTES:
        for link in LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / link["path"]).resolve() if link["path"] else page
            place = target.relative_to(DOCS).as_posix() if target.is_relative_to(DOCS) else ""
            there = target.is_file() and target.suffix == ".md"
            text = made.get(place) or (target.read_text(encoding="utf-8") if there else "")
            missing = not (text or target.exists())
            if missing or (link["anchor"] and link["anchor"][1:] not in anchors(text)):
                wrong.append(f"{name}: {link[0]}")
    assert not wrong


def test_lines_are_short():
    long = [
        f"{name}:{number}"
        for page, name in WITH_NOTES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert not long


def test_methods_side_by_side_exist():
    text = (DOCS / "choosing-a-method.md").read_text(encoding="utf-8")
    names = {
        name for cell in re.findall(r"^\| (`.+?) \|", text, re.M) for name in re.findall(r"`(\w+)`", cell)
    }
    assert len(names) > 30 and names <= {*af.list_methods()}


def test_pages_of_results_hold_what_is_stored():
    """Means of the overview are those of the tables that `reproduce.py` wrote."""
    page = generated()["results/unlabelled.md"]
    overview, panel = page.split("## MNIST, VGG\n")
    (row,) = [line for line in overview.splitlines() if line.startswith("| `prune_concat_distill` |")]
    (cell,) = re.findall(r"^\| prune_concat, distilled \| ([\d.]+)", panel.split("\n## ")[0], re.M)
    assert cell in row


def test_tests_that_guard_a_rule_are_there():
    named = re.findall(r"`([\w/]+/?[\w.]*)`", (DOCS / "reliability.md").read_text(encoding="utf-8"))
    tests = [name for name in named if name.endswith(".py") or "/" in name.strip("/")]
    assert len(tests) > 20
    assert not [name for name in tests if not (ROOT / "tests" / name).exists()]
