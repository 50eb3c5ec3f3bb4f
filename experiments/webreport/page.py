"""Put the page together: sections from what was collected, written with jinja2 in one go."""

import base64
import datetime
import itertools
import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autofusion_jax.atomic import write_text
from autofusion_jax.validation import require
from reporting.tables import heading
from webreport import charts, headline, pictures
from webreport.collect import FigureRun, Run
from webreport.glossary import GLOSSARY
from webreport.sections import IMAGES, Builder

TEMPLATES = Path(__file__).parent / "templates"
PAGE_FILE = "index.html"
GENERATOR = "autofusion_jax report"


def write_page(runs: Sequence[Run], figures: Sequence[FigureRun], out: Path) -> Path:
    """Write the page and its images.

    Args:
        runs: what `collect` found.
        figures: likewise.
        out: its folder: new, empty, or that of an earlier page, whose images are replaced.

    Returns:
        The path of the page.

    Raises:
        ValueError: `out` holds something else.
    """
    _claim(out)
    builder = Builder(out / IMAGES, runs)
    sections = [
        builder.run_section(list(group)) for _, group in itertools.groupby(runs, lambda run: run.home)
    ]
    drawn = [builder.figure_section(figure) for figure in figures]
    every = [setting for setting in builder.settings if setting.metric]
    context = {
        "generator": GENERATOR, "main": headline.main_setting(every), "headline": headline.headline,
        "verdict": headline.verdict, "heading": heading, "choices": pictures.choices,
        "overview": headline.overview_table(every), "runs": sections, "figures": drawn,
        "glossary": GLOSSARY, "facts": machine_facts(), "palettes": charts.palettes(),
        "asset": _asset, "plotly": Markup(get_plotlyjs()), "datatables": _datatables(),
    }  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    write_text(out / PAGE_FILE, environment.get_template("page.html").render(context))
    return out / PAGE_FILE


def _claim(out: Path) -> None:
    page = out / PAGE_FILE
    ours = page.is_file() and GENERATOR in page.read_text(encoding="utf-8")[:2000]
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(ours or empty, "report", "--out", "new, empty, or the folder of an earlier report", out)
    out.mkdir(parents=True, exist_ok=True)
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


def _asset(name: str) -> Markup:
    """A file of the page itself, to stand in it as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _datatables() -> str:
    """DataTables, as itables ships it: a module that exports it as default, in base64."""
    return base64.b64encode((files("itables") / "html" / "dt_bundle.js").read_bytes()).decode()
