"""The sections of the page, from what was collected: one for each run, table and figure."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from tables import TABLES
from webreport import charts, pictures, summary
from webreport.collect import FigureRun, RunFolder, read_curves, read_histories, read_prose
from webreport.commands import command, describe, setting_lines, shown_config, title_of_run
from webreport.headline import worth

IMAGES = "images"
"""The folder of the page's images, beside it."""


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

    @property
    def num_images(self) -> int:
        """How many images its parts show."""
        return sum(len(part.panels) + len(part.matrices) for part in self.parts)


@dataclasses.dataclass
class Builder:
    """Builds sections one after another.

    Attributes:
        images: folder that the images are written into.
        runs: all runs of the page.
        settings: the settings of the sections built so far.
        anchors: the anchors given so far.
    """

    images: Path
    runs: Sequence[RunFolder]
    settings: list[summary.Setting] = dataclasses.field(default_factory=list)
    anchors: list[str] = dataclasses.field(default_factory=list)

    def run_section(self, runs: Sequence[RunFolder]) -> Section:
        """The section of one run, or of the panels of one table."""
        first = runs[0]
        table = TABLES.get(first.table or "")
        name = table.title if table else first.table or title_of_run(first, self.runs)
        title = _heading(read_prose(first.home)) or name
        anchor = self._anchor(first.table or first.name)
        parts = [self._part(run, title, self._anchor(run.name) if run.panel else anchor) for run in runs]
        if first.panel:
            drawn = pictures.other_pictures(first.home, title, self.images / anchor, drawn=False)
            parts.append(Part(anchor, panels=drawn))
        return Section(anchor, title, command(runs), parts)

    def figure_section(self, figure: FigureRun) -> Section:
        """The section of a reproduced figure."""
        data, curves = figure.data, figure.data.get("curves")
        anchor = self._anchor(f"figure {data['figure']}")
        chart = charts.figure_chart(curves, f"{data['title']}: {data['caption']}") if curves else None
        panels = pictures.panel_pictures(figure, self.images / anchor)
        settings = "\n".join(setting_lines(data.get("settings") or {}))
        part = Part(anchor, lead=data["caption"], curves=chart, panels=panels, settings=settings)
        return Section(anchor, data["title"], data.get("command"), [part])

    def _anchor(self, name: str) -> str:
        """A name as it may stand in addresses and paths, once on the page."""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
        names = itertools.chain([plain], (f"{plain}--{number}" for number in itertools.count(2)))
        anchor = next(name for name in names if name not in self.anchors)
        self.anchors.append(anchor)
        return anchor

    def _part(self, run: RunFolder, section: str, anchor: str) -> Part:
        folder, curves, histories = self.images / anchor, read_curves(run), read_histories(run)
        found = summary.settings(run, anchor, section)
        self.settings += found
        line = f"Accuracy of {run.name} over gamma, one line for each method."
        learned = f"What the merges of {run.name} recorded epoch by epoch, one line for each method."
        return Part(
            anchor, (_heading(run.text).removeprefix(f"{section}: ") or run.panel) if run.panel else "",
            describe(run.config), _prose(run),
            [summary.results_table(one, _caption(one), worth(one)) for one in found],
            charts.interpolation_chart(curves, line) if curves else None,
            charts.history_chart(histories, learned) if histories else None,
            pictures.matrix_pictures(run, folder),
            pictures.other_pictures(run.folder, run.name, folder, drawn=bool(curves)),
            "\n".join(setting_lines(shown_config(run))) if run.config else "",
        )  # fmt: skip


def _heading(text: str) -> str:
    """The heading of a Markdown file, or nothing."""
    first = text.partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""


def _prose(run: RunFolder) -> Markup:
    """What a run's Markdown file says under its heading: of a merge, only its notes."""
    paragraphs = [part for part in re.split(r"\n\s*\n", run.text) if not part.startswith("# ")]
    if run.table is None:
        paragraphs = [part for part in paragraphs if part.startswith("Note:")]
    markdown = MarkdownIt("js-default").disable("image")  # no HTML, nothing from outside
    return Markup(markdown.render("\n\n".join(paragraphs)))


def _caption(setting: summary.Setting) -> str:
    pairs = max(line.row.num_pairs for line in setting.lines)
    repeated = any(line.row.num_repeats > 1 for line in setting.lines)
    what = f"{pairs} sets of trained networks" if pairs > 1 else "one set of trained networks"
    over = "sets" if pairs > 1 else "repeats" if repeated else ""
    spread = f"; mean ± standard deviation over {over}" if over else ""
    units = "accuracy in percent"
    if setting.metric == "scaled":
        units += " (errors: mean absolute, in grey levels of 255, lower is better)"
    return f"{setting.name}: {units} on the test inputs, {what}{spread}. The best merge stands out."
