"""The page put together: sections from what was collected, written with jinja2 in one go."""

import base64
import datetime
import hashlib
import itertools
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from autofusion_jax.atomic import write_text
from autofusion_jax.validation import require
from data.files import reading
from reporting.tables import heading
from webreport import charts, headline, pictures
from webreport.collect import WRITTEN, FigureRun, RunFolder
from webreport.glossary import GLOSSARY
from webreport.sections import IMAGES, Builder

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("charts.js", "browsers.js", "tables.js", "copy.js")
PAGE_FILE = "index.html"
GENERATOR = "autofusion_jax report"


class Page(NamedTuple):
    """A page as it was written: where it is, and in words how much it shows."""

    path: Path
    contents: str


def write_page(runs: Sequence[RunFolder], figures: Sequence[FigureRun], out: Path) -> Page:
    """Write the page and its images.

    Args:
        runs: what `collect` found.
        figures: likewise.
        out: its folder: new, empty, or that of an earlier page, whose images are replaced.

    Raises:
        ValueError: `out` holds something else.
    """
    _claim(out)
    builder = Builder(out / IMAGES, runs)
    groups = [list(group) for _, group in itertools.groupby(runs, lambda run: run.home)]
    sections, drawn = [], []
    for group in groups:
        with reading(group[0].home, WRITTEN):
            sections.append(builder.run_section(group))
    for figure in figures:
        with reading(figure.folder, WRITTEN):
            drawn.append(builder.figure_section(figure))
    every = [setting for setting in builder.settings if setting.metric]
    tables = sum(group[0].table is not None for group in groups)
    contents = _contents(
        {"run": len(groups) - tables, "table": tables, "setting": len(builder.settings),
         "figure": len(figures), "image": sum(section.num_images for section in (*sections, *drawn))}
    )  # fmt: skip
    context = {
        "generator": GENERATOR, "main": headline.main_setting(every), "headline": headline,
        "heading": heading, "choices": pictures.choices, "runs": sections,
        "overview": headline.overview_table(every), "worth_of_all": headline.worth_of_all(every),
        "figures": drawn, "contents": contents, "glossary": GLOSSARY, "facts": machine_facts(),
        "script": Markup("\n".join(map(_read_asset, SCRIPTS))),
    }  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"breakable": breakable, "hashed": _hashed}
    context["style"] = Markup(environment.get_template("style.css").render(lines=charts.palettes()))
    write_text(out / PAGE_FILE, environment.get_template("page.html").render(context))
    return Page(out / PAGE_FILE, contents)


def _contents(counts: Mapping[str, int]) -> str:
    """How much a page shows, in words; what there is none of is left out.

    Example:
        >>> _contents({"run": 1, "table": 0, "setting": 2})
        '1 run, 2 settings'
    """
    return ", ".join(f"{n} {noun}" if n == 1 else f"{n} {noun}s" for noun, n in counts.items() if n)


def breakable(text: str) -> Markup:
    """A name that lines may be broken in, after its slashes, underscores and commas.

    Example:
        >>> str(breakable("1/mnist_vgg"))
        '1/<wbr>mnist_<wbr>vgg'
    """
    return Markup(re.sub(r"([/_]|,(?=\S))", r"\1<wbr>", str(escape(text))))


def _hashed(text: str) -> Markup:
    """The source of a script or style that the page's security policy lets run: its digest."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")


def _claim(out: Path) -> None:
    page = out / PAGE_FILE
    ours = page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")[:2000]
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(ours or empty, "report", "--out", "new, empty, or the folder of an earlier report", out)
    write_text(page, f"{GENERATOR}: at work")  # stopped from here on, the same command goes on
    shutil.rmtree(out / IMAGES, ignore_errors=True)


def machine_facts() -> dict[str, Any]:
    """The machine that the page was made on, and the versions there."""
    return {
        "Processor": _processor(), "Cores": os.cpu_count(),
        "System": f"{platform.system()} {platform.machine()}",
        "JAX backend": jax.default_backend(), "Python": platform.python_version(), "JAX": jax.__version__,
        "autofusion_jax": version("autofusion_jax"), "Page made on": datetime.date.today().isoformat(),
    }  # fmt: skip


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _read_asset(name: str) -> str:
    """A file of the page itself, to stand in it as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
