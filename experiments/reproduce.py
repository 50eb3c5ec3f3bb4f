"""Reproduce tables of papers: train or find their endpoints, run their rows, print ours beside theirs.

python experiments/reproduce.py --table=5
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console

from app import flags, run
from autofusion_jax.atomic import locked
from autofusion_jax.validation import require, unknown_name
from configs.schema import split_commas
from fields import check_fields
from figures import FIGURES, run_figure
from tables import MODULES, TABLES
from tables.report import TABLE_FILE, total_seconds, write_panel, write_table
from tables.runner import run_rows
from tables.schema import Panel, Table, TableConfig
from tables.settings import override
from tables.stored import StoredPanel

TABLE = flags.DEFINE_multi_string("table", [], f"Which table: {', '.join(TABLES)}; may be repeated.")
FIGURE = flags.DEFINE_multi_string(
    "figure", [], f"Which figure of the paper: {', '.join(FIGURES)}; may be repeated."
)
ALL = flags.DEFINE_bool("all", False, "Every table and figure but FusionBench's protocol.")
FAST = flags.DEFINE_bool("fast", False, "A first look: one pair, one key, few images, epochs and rows.")
PANELS = flags.DEFINE_list(
    "panels", None, "Run only these panels of the table, by the names of their folders."
)
ROWS = flags.DEFINE_list("rows", None, "Run only these rows, by their names in results.jsonl.")
OUT_DIR = flags.DEFINE_string(
    "out_dir",
    "",
    "Folder of the results; by default RUNS_DIR/table_TABLE. Of several tables that of their folders.",
)
RUNS_DIR = flags.DEFINE_string("runs_dir", "runs", "Where trained endpoints are kept and found again.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with the original files of the data sets.")
PAIRS = flags.DEFINE_integer("pairs", None, "Endpoint pairs, of seeds SEED to SEED + PAIRS - 1.")
SEED = flags.DEFINE_integer("seed", None, "Seed of the first pair.")
SET = flags.DEFINE_multi_string("set", [], "Another setting, may be repeated: --set=merge.epochs=64.")


def main(console: Console) -> None:
    everything = [module.TABLE.name for module in MODULES]
    tables = everything if ALL.value else list(split_commas(tuple(TABLE.value)))
    figures = list(FIGURES) if ALL.value else list(split_commas(tuple(FIGURE.value)))
    for name in tables:
        if name not in TABLES:
            raise unknown_name("--table", "table", name, TABLES)
    for name in figures:
        if name not in FIGURES:
            raise unknown_name("--figure", "figure", name, FIGURES)
    require(bool(tables or figures), "reproduce", "--table, --figure or --all", "given", "none of them")
    alone = not figures or len(tables) + len(figures) == 1
    wanted = "left out with a figure and more"
    require(alone or not OUT_DIR.value, "reproduce", "--out_dir", wanted, OUT_DIR.value)
    for flag in (PANELS, ROWS, PAIRS, SET) if FIGURE.value else ():
        require(not flag.value, "reproduce", f"--{flag.name}", "left out with --figure", flag.value)
    several = len(tables) > 1
    prepared = [(TABLES[name], _panels(TABLES[name], several)) for name in tables]  # refuse all wrong at once
    steps: list[tuple[str, Callable[[Console], str]]] = [
        *(
            (f"table {table.name}", functools.partial(_run_table, table, panels))
            for table, panels in prepared
        ),
        *((f"figure {name}", functools.partial(_draw_figure, name)) for name in figures),
    ]
    lines, failed = [], []
    for name, step in steps:  # what stops one does not stop the others
        try:
            lines.append(step(console))
        except (ValueError, OSError) as error:
            failed.append(error)
            lines.append(f"[red]{name}: stopped:[/] {error}")
    for line in lines:
        console.print(line)
    if failed:
        raise failed[0]


def _panels(table: Table, several: bool) -> list[tuple[Panel, TableConfig, list[str]]]:
    """The panels to run, with their settings and the names of their rows."""
    known = [panel.name for panel in table.panels]
    for flag in (PANELS, ROWS):
        wanted = "names, or left out for all of them"
        require(flag.value is None or bool(flag.value), "reproduce", f"--{flag.name}", wanted, "none")
    for name in PANELS.value or []:
        if name not in known:
            raise unknown_name("--panels", "panel", name, known)
    wanted = PANELS.value or (table.fast if FAST.value and table.fast else known)
    panels = [panel for panel in table.panels if panel.name in wanted]
    rows = {row.name for panel in panels for row in panel.rows}
    for name in ROWS.value or []:
        if name not in rows:
            raise unknown_name("--rows", "row", name, rows)
    return [(panel, _config(table, panel, several), _rows(panel)) for panel in panels]


def _rows(panel: Panel) -> list[str]:
    default = panel.fast if FAST.value and panel.fast else [row.name for row in panel.rows]
    return ROWS.value or list(default)


def _config(table: Table, panel: Panel, several: bool) -> TableConfig:
    config = panel.get_config()
    if FAST.value:
        config.make_fast()
    for assignment in SET.value:
        field = assignment.partition("=")[0].strip()
        has_flag = field in ("out_dir", "runs_dir", "data.dir", "pairs", "seed")
        require(not has_flag, "reproduce", "--set", f"--{field.replace('.', '_')}, its own flag", assignment)
        override(config, assignment)
    config.out_dir, config.runs_dir, config.data.dir = OUT_DIR.value, RUNS_DIR.value, DATA_DIR.value
    if several or not config.out_dir:
        folder = f"table_{table.name}{'_fast' if FAST.value else ''}"
        config.out_dir = f"{config.out_dir or config.runs_dir}/{folder}"
    config.pairs = config.pairs if PAIRS.value is None else PAIRS.value
    config.seed = config.seed if SEED.value is None else SEED.value
    require(config.pairs >= 1, "reproduce", "--pairs", ">= 1", config.pairs)
    check_fields("reproduce", config)
    return config


def _run_table(table: Table, panels: list[tuple[Panel, TableConfig, list[str]]], console: Console) -> str:
    """Run and report the panels of a table; returns what it wrote where, in one line."""
    start, made, files, out_dir = time.perf_counter(), 0.0, [], Path(panels[0][1].out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with locked(out_dir / TABLE_FILE):  # another process that writes this table waits, and finds its rows
        for place, (panel, config, names) in enumerate(panels, 1):
            console.rule(f"table {table.name}, panel {place} of {len(panels)} {panel.name}")
            opened = panel.open_run(config, console)
            records = run_rows(table, panel, config, opened, console, names)
            write_panel(table, StoredPanel(panel, config, opened.notes, records), opened, console)
            files = write_table(table, config.out_dir)
            made += total_seconds(records)
            jax.clear_caches()  # programs hold memory maps, of which a process has few; docs/performance.md
    took = f"{time.perf_counter() - start:.0f} s now, {made:.0f} s of training and merging in all"
    return f"table {table.name}: results in {out_dir}: {', '.join(files)} ({took})"


def _draw_figure(name: str, console: Console) -> str:
    """Draw a figure of the paper; returns where it is, in one line."""
    start = time.perf_counter()
    folder = run_figure(
        name, out_dir=OUT_DIR.value, runs_dir=RUNS_DIR.value, data_dir=DATA_DIR.value,
        seed=SEED.value, fast=FAST.value, console=console,
    )  # fmt: skip
    jax.clear_caches()
    return f"figure {name}: in {folder} ({time.perf_counter() - start:.0f} s)"


if __name__ == "__main__":
    run(main, with_config=False)
