"""Put the page together: sections from what was collected, written with jinja2 in one go."""

import base64
import dataclasses
import datetime
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autofusion_jax.reporting.records import write_text
from autofusion_jax.validation import require
from webreport import charts, headline, pictures, summary
from webreport.collect import FigureRun, Run, read_curves, read_histories, read_prose
from webreport.commands import changes, command, describe, shown_config
from webreport.glossary import GLOSSARY

TEMPLATES = Path(__file__).parent / "templates"
PAGE_FILE, IMAGES = "index.html", "images"
GENERATOR = "autofusion_jax report"


@dataclasses.dataclass(frozen=True)
class Part:
    """What one run, panel of a table, or figure shows; what is empty is left out."""

    anchor: str
    title: str = ""
    lead: str = ""
    prose: Markup | str = ""
    tables: Sequence[summary.Table] = ()
    curves: charts.Chart | None = None
    learning: charts.Chart | None = None
    matrices: Sequence[pictures.Picture] = ()
    panels: Sequence[pictures.Picture] = ()
    settings: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page: a run, a table with all its panels, or a figure."""

    anchor: str
    title: str
    command: str | None
    parts: Sequence[Part]


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
    taken: list[str] = []
    every: list[summary.Setting] = []
    sections = [
        _run_section(list(group), home, out, taken, every)
        for home, group in itertools.groupby(runs, key=lambda run: run.home)
    ]
    drawn = [_figure_section(figure, out, taken) for figure in figures]
    every = [setting for setting in every if setting.metric]
    context = {
        "generator": GENERATOR, "main": headline.main_setting(every), "headline": headline.headline,
        "verdict": headline.verdict, "heading": summary.heading, "choices": pictures.choices,
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


def _anchor(name: str, taken: list[str]) -> str:
    """A name as it may stand in addresses and paths, once on the page."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
    anchor = next(a for n in itertools.count(1) if (a := f"{plain}--{n}" if n > 1 else plain) not in taken)
    taken.append(anchor)
    return anchor


def _run_section(
    runs: Sequence[Run], home: Path, out: Path, taken: list[str], every: list[summary.Setting]
) -> Section:
    """A run or a table, whose settings are added to `every`."""
    first = runs[0]
    anchor = _anchor(first.table or first.name, taken)
    title = _title(read_prose(home)) or first.table or first.name
    if anchor.partition("--")[2] and changes(first):  # the same config again: say how it differs
        title += f" ({', '.join(flag.removeprefix('--config.') for flag in changes(first))})"
    parts = []
    for run in runs:
        place = _anchor(run.name, taken) if run.panel else anchor
        found = summary.settings(run, place)
        every += found
        parts.append(_run_part(run, place, found, title, out))
    if first.panel:
        drawn = pictures.other_pictures(home, title, out, f"{IMAGES}/{anchor}", drawn=False)
        parts.append(Part(anchor, panels=drawn))
    return Section(anchor, title, command(first), parts)


def _run_part(run: Run, anchor: str, found: Sequence[summary.Setting], whole: str, out: Path) -> Part:
    folder = f"{IMAGES}/{anchor}"
    curves, histories = read_curves(run), read_histories(run)
    title = _title(run.text).removeprefix(f"{whole}: ") or str(run.panel)
    line = f"Accuracy of {run.name} over gamma, one line for each method."
    learned = f"What the merges of {run.name} recorded epoch by epoch, one line for each method."
    return Part(
        anchor, title if run.panel else "", describe(run.config), _prose(run),
        [summary.results_table(setting, _caption(setting)) for setting in found],
        charts.interpolation_chart(curves, line) if curves else None,
        charts.history_chart(histories, learned) if histories else None,
        pictures.matrix_pictures(run, out, folder),
        pictures.other_pictures(run.folder, run.name, out, folder, drawn=bool(curves)),
        json.dumps(shown_config(run), indent=2) if run.config else "",
    )  # fmt: skip


def _title(text: str) -> str:
    """The heading of a Markdown file, or nothing."""
    first = text.partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def _prose(run: Run) -> Markup:
    """What a run's Markdown file says under its heading: of a merge, only its notes."""
    paragraphs = [part for part in re.split(r"\n\s*\n", run.text) if not part.startswith("# ")]
    if run.table is None:
        paragraphs = [part for part in paragraphs if part.startswith("Note:")]
    markdown = MarkdownIt("js-default").disable("image")  # no HTML, nothing from outside
    return Markup(markdown.render("\n\n".join(paragraphs)))


def _caption(setting: summary.Setting) -> str:
    pairs = max(line.row.num_pairs for line in setting.lines)
    repeated = any(line.row.num_repeats > 1 for line in setting.lines)
    what = f"{pairs} pairs of trained networks" if pairs > 1 else "one pair of trained networks"
    over = "pairs" if pairs > 1 else "repeats" if repeated else ""
    spread = f"; mean ± standard deviation over {over}" if over else ""
    return (
        f"{setting.name}: accuracy on the test images in percent, {what}{spread}; the best merge stands out"
    )


def _figure_section(figure: FigureRun, out: Path, taken: list[str]) -> Section:
    data = figure.data
    anchor, curves = _anchor(f"figure {data['figure']}", taken), data.get("curves")
    chart = charts.figure_chart(curves, f"{data['title']}: {data['caption']}") if curves else None
    panels = pictures.panel_pictures(figure, out, f"{IMAGES}/{anchor}")
    settings = json.dumps(data["settings"], indent=2) if data.get("settings") else ""
    part = Part(anchor, lead=data["caption"], curves=chart, panels=panels, settings=settings)
    return Section(anchor, data["title"], data.get("command"), [part])


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
