"""The one table of reproduced figures, and how one is made."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from autofusion_jax.atomic import locked
from autofusion_jax.validation import unknown_name
from configs.schema import in_fast_settings
from data.files import DamagedFile, reading
from figures import interpolation, layers, maps, permutations
from figures.schema import FAST, FULL, Contents, Drawing, Figure
from pipeline.endpoints import open_run
from pipeline.records import file_checksum, read_record, write_record

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        interpolation.FIGURE_3,
        interpolation.FIGURE_4,
        permutations.FIGURE_5,
        maps.FIGURE_6,
        permutations.FIGURE_7,
        maps.FIGURE_8,
        maps.FIGURE_9,
        layers.FIGURE,
    )
}
FIGURE_FILE = "figure.json"


def run_figure(
    name: str,
    *,
    out_dir: str,
    runs_dir: str,
    data_dir: str,
    seed: int | None,
    fast: bool,
    console: Console,
) -> Path:
    """Make a figure: endpoints, merges, numbers, pictures; what exists under the same settings is kept.

    Args:
        name: a key of `FIGURES`.
        out_dir: its folder; empty for `RUNS_DIR/figure_NAME`, with `_fast` behind it for a first look.
        runs_dir: where endpoints and merges are kept and found again.
        data_dir: folder with the original files of the data set, or empty.
        seed: seed of the (first) endpoint pair; None for the config's.
        fast: fewer points, images, epochs and merges, and networks trained briefly, for a first look.
        console: where progress is printed.

    Returns:
        The folder, with `figure.json` and the pictures it names.

    Raises:
        ValueError: unknown name.
        OSError: the folder cannot be written.
    """
    if name not in FIGURES:
        raise unknown_name("--figure", "figure", name, FIGURES)
    figure, configs = FIGURES[name], []
    if fast and figure.fast:
        figure = dataclasses.replace(figure, rows=figure.fast)
    for build in figure.configs:
        config = in_fast_settings(build()) if fast else build()
        config.runs_dir, config.data.dir = runs_dir, data_dir
        config.seed = config.seed if seed is None else seed
        configs.append(config)
    folder = Path(out_dir or Path(runs_dir) / f"figure_{name}{'_fast' if fast else ''}")
    runs = {config.name: open_run(config, console) for config in configs}
    drawing = Drawing(figure, folder, FAST if fast else FULL, runs, console)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / FIGURE_FILE):  # another process that draws this figure waits, and finds it made
        stored = _stored(folder, console)
        if stored.get("settings") == drawing.settings:
            console.print(f"figure {name} is in {folder} already")
            return folder
        for panel in stored.get("panels", []):
            (folder / panel["file"]).unlink(missing_ok=True)
        (folder / FIGURE_FILE).unlink(missing_ok=True)
        contents = figure.draw(drawing)
        command = f"python experiments/reproduce.py --figure={name}{' --fast' if fast else ''}"
        command += "" if seed is None else f" --seed={seed}"
        made = _to_json(figure, contents, command, drawing.settings)
        pictures = {panel.file: file_checksum(folder / panel.file) for panel in contents.panels}
        write_record(folder / FIGURE_FILE, {**made, "files": pictures})
    console.print(f"figure {name} in {folder}: {len(contents.panels)} picture(s), {FIGURE_FILE}")
    return folder


def _stored(folder: Path, console: Console) -> dict[str, Any]:
    """What the folder holds of a figure: nothing if there is none, or one that is damaged, which is said."""
    path = folder / FIGURE_FILE
    if not path.is_file():
        return {}
    try:
        stored = read_record(path)
        with reading(path, "a figure with its pictures"):
            for name, checksum in stored["files"].items():
                if file_checksum(folder / name) != checksum:
                    raise ValueError(f"{name} was changed")
    except (DamagedFile, FileNotFoundError) as error:
        console.print(f"[yellow]the figure is made again:[/] {error}", soft_wrap=True)
        return {}
    return stored


def _to_json(figure: Figure, contents: Contents, command: str, settings: dict[str, Any]) -> dict[str, Any]:
    panels = [
        {"file": p.file, "alt": p.alt, "layer": p.layer, "method": p.method, "sample": p.sample}
        for p in contents.panels
    ]
    return {
        "figure": figure.name, "title": figure.title, "caption": contents.caption, "command": command,
        "panels": panels, "curves": contents.curves.to_json() if contents.curves else None,
        "numbers": dict(contents.numbers), "settings": settings,
    }  # fmt: skip
