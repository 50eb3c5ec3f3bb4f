"""Pages of results, made from the stored records while the documentation is built: no number is typed.

Under `docs/results`, every folder with a `results.jsonl` holds a panel of a table. The index counts its
records. A page a table shows, where it has several panels, the mean of its main metric in all of them, and
then what `reproduce.py` wrote of each panel from the same records (`results.md`), with the pictures beside
it and links to the records.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = "results"
RECORDS, SETTINGS, TABLE = "results.jsonl", "config.json", "results.md"
MAIN_METRICS = ("joint", "avg_within", "avg", "scaled")
"""What an overview shows: the first of these that all panels have."""
FULL_WIDTH = "---\nhide:\n  - toc\n---\n\n"


@dataclasses.dataclass(frozen=True)
class Panel:
    """The stored results of a panel.

    Attributes:
        folder: where they lie.
        records: one for every evaluated network.
        settings: what `config.json` holds.
        heading: what `reproduce.py` calls the panel.
        text: what it wrote below that.
    """

    folder: Path
    records: list[dict[str, Any]]
    settings: Mapping[str, Any]
    heading: str
    text: str

    @property
    def title(self) -> str:
        """The panel's own title: the heading without the table's."""
        return self.heading.rpartition(": ")[2]


def read_panel(folder: Path) -> Panel:
    """Read a panel's folder."""
    lines = (folder / RECORDS).read_text(encoding="utf-8").splitlines()
    heading, _, text = (folder / TABLE).read_text(encoding="utf-8").partition("\n")
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return Panel(
        folder,
        [json.loads(line) for line in lines],
        settings,
        heading.lstrip("# "),
        text.strip(),
    )


def read_tables(results: Path) -> dict[str, list[Panel]]:
    """Read all tables under a folder: name -> panels, in the order of the numbers in their names."""
    tables: dict[str, list[Panel]] = {}
    for path in sorted(
        results.glob(f"**/{RECORDS}"), key=lambda path: _natural(str(path))
    ):
        tables.setdefault(path.relative_to(results).parts[0], []).append(
            read_panel(path.parent)
        )
    return tables


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """A key by which 1000 comes after 300."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"(\d+)", text)
    ]


def table_title(panels: Sequence[Panel]) -> str:
    """What a table is called: the heading of its panel, without that panel's own title if it has one."""
    heading = panels[0].heading
    return heading.rpartition(": ")[0] if "panel" in panels[0].settings else heading


def table_command(panels: Sequence[Panel]) -> str:
    """The command that makes a table again."""
    return f"python experiments/reproduce.py --table={panels[0].settings['table']}"


def panel_command(panel: Panel) -> str:
    """The command that makes one panel again, with the pairs that are stored."""
    chosen = (
        f" --panels={panel.settings['panel']}" if "panel" in panel.settings else ""
    )
    return f"{table_command([panel])}{chosen} --pairs={num_pairs(panel)}"


def num_pairs(panel: Panel) -> int:
    """How many endpoint pairs a panel was run on."""
    return len({record["pair"] for record in panel.records})


def means(panel: Panel, metric: str) -> dict[tuple[str, str | None], float]:
    """By method and variant, the mean over pairs of the mean over repeats."""
    values: dict[tuple[str, str | None], dict[int, list[float]]] = {}
    for record in panel.records:
        if metric in record["metrics"]:
            pairs = values.setdefault((record["method"], record["variant"]), {})
            pairs.setdefault(record["pair"], []).append(record["metrics"][metric])
    return {
        row: _mean([_mean(one) for one in pairs.values()])
        for row, pairs in values.items()
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def overview(panels: Sequence[Panel]) -> str:
    """Rows by panels: the mean of the main metric. Spreads stand in the panels' own tables."""
    metric = next(
        (
            name
            for name in MAIN_METRICS
            if all(
                name in record["metrics"] for p in panels for record in p.records
            )
        ),
        None,
    )
    if metric is None or len(panels) < 2:
        return ""
    columns = [means(panel, metric) for panel in panels]
    rows = dict.fromkeys(
        row for column in sorted(columns, key=len, reverse=True) for row in column
    )
    lines = [
        f"## All panels\n\nMean of `{metric}` over the pairs, in percent; rows as in `{RECORDS}`.\n",
        _row(["Row", *(panel.title for panel in panels)]),
        _row(["---", *(["---:"] * len(panels))]),
        _row(["Pairs", *(str(num_pairs(panel)) for panel in panels)]),
    ]
    for row in rows:
        name = f"`{row[0]}`" + (f", {row[1]}" if row[1] else "")
        lines.append(
            _row([name, *(f"{c[row]:.2f}" if row in c else "-" for c in columns)])
        )
    return "\n".join(lines) + "\n\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table_page(name: str, panels: Sequence[Panel], results: Path) -> str:
    """A table as a page."""
    named = "panel" in panels[0].settings
    parts = [
        f"{FULL_WIDTH}# {table_title(panels)}\n",
        f"```sh\n{table_command(panels)}\n```\n",
        overview(panels),
        *(_pictures(results / name, results) if named else []),
    ]
    for panel in panels:
        place = panel.folder.relative_to(results).as_posix()
        files = ", ".join(
            f"[{file}]({place}/{file})" for file in (RECORDS, SETTINGS)
        )
        parts += [
            f"## {panel.title if named else 'Numbers'}\n\n{panel.text}\n",
            f"By `{panel_command(panel)}`, with the settings in its config.json. Records: {files}.\n",
            *_pictures(panel.folder, results),
        ]
    return "\n".join(parts)


def _pictures(folder: Path, results: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.png")):
        place = path.relative_to(results).as_posix()
        yield f"![{path.stem.replace('_', ' ')}]({place}){{ style='max-height: 26rem' }}\n"


def index_page(tables: Mapping[str, Sequence[Panel]]) -> str:
    """The list of all tables, with what was run of each."""
    lines = [
        f"{FULL_WIDTH}# Results\n",
        "Every number on these pages is made from records, one line for each evaluated network, while the",
        "documentation is built. [How a comparison is made](../experiments.md#how-a-comparison-is-made);",
        "[what the results say](../findings.md).\n",
        _row(["Table", "Panels", "Pairs", "Networks", "Hours"]),
        _row(["---", "---:", "---:", "---:", "---:"]),
    ]
    for name, panels in tables.items():
        records = [record for panel in panels for record in panel.records]
        pairs = sorted({num_pairs(panel) for panel in panels})
        span = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
        hours = sum(record["seconds"] for record in records) / 3600
        link = f"[{table_title(panels)}]({name}.md)"
        lines.append(
            _row(
                [link, str(len(panels)), span, f"{len(records):,}", f"{hours:.1f}"]
            )
        )
    lines.append(
        "\n*Hours* are those of training and merging, on the machines that were at hand, some of them busy.\n"
    )
    return "\n".join(lines)


def pages(docs: Path) -> dict[str, str]:
    """All generated pages: path under the documentation -> Markdown."""
    tables = read_tables(docs / RESULTS)
    made = {
        f"{RESULTS}/{name}.md": table_page(name, panels, docs / RESULTS)
        for name, panels in tables.items()
    }
    return {f"{RESULTS}/index.md": index_page(tables), **made}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that mkdocs builds, in place of the files that they are made of."""
    from mkdocs.structure.files import File

    for file in [
        file
        for file in files.documentation_pages()
        if file.src_uri.startswith(f"{RESULTS}/")
    ]:
        files.remove(file)
    for path, text in pages(Path(config.docs_dir)).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Name the pages in the navigation, in the section that has the index."""
    tables = read_tables(Path(config.docs_dir) / RESULTS)
    for section in config.nav or []:
        entries = (
            next(iter(section.values())) if isinstance(section, dict) else None
        )
        if isinstance(entries, list) and any(
            f"{RESULTS}/index.md" in _targets(entry) for entry in entries
        ):
            entries.extend({name: f"{RESULTS}/{name}.md"} for name in tables)
    return config


def _targets(entry: Any) -> list[Any]:
    """The pages that an entry of the navigation names."""
    return list(entry.values()) if isinstance(entry, dict) else [entry]
