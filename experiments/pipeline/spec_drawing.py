"""The permutation spec of a config's model, derived from its program: tables, JSON and drawings."""

import json
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from autofusion_jax.atomic import write_text
from autofusion_jax.evaluation.tables import markdown_rows
from autofusion_jax.plots.spec_drawing import draw_perm_spec
from autofusion_jax.symmetry.infer import infer_perm_spec
from autofusion_jax.symmetry.spec import PermSpec
from configs.models import build, model_identity
from configs.schema import Config, resolved
from data.files import reading
from data.own import is_own
from data.registry import input_shape, num_classes
from fields import check_fields
from pipeline.records import CONFIG_FILE, read_record
from pipeline.split import head_size, sizes_of_tasks

TABLE_FILE, SPEC_FILE, DRAWINGS = "perm_spec.md", "perm_spec.json", ("perm_spec.svg", "perm_spec.png")
SETTINGS_FILE = "perm_spec_config.json"  # a config.json is that of a merge
NUM_INPUTS = 2


def draw_config(config: Config, console: Console) -> None:
    """Derive the spec of a config's model, show it, and write it into the config's folder."""
    check_fields("--config", config)
    data = config.data.name
    names = [data] if is_own(data) else data.split("+")
    sizes = tuple(map(num_classes, names))
    if len(names) == 1:
        sizes = sizes_of_tasks(config, sizes[0])
    model = build(config.model, input_shape(names[0]), num_classes=head_size(config, sizes))
    init_key, input_key = jax.random.split(jax.random.key(config.seed))
    x = jax.random.normal(input_key, (NUM_INPUTS, *model.input_shape))
    spec = infer_perm_spec(model.apply, model.init(init_key), x)
    folder = open_folder(config)
    console.print(spec)
    title = f"{config.name}: permutation groups of {config.model.name} on {config.data.name}"
    write_text(folder / TABLE_FILE, f"{title}\n\n{markdown_spec(spec)}")
    write_text(folder / SPEC_FILE, spec.to_json())
    write_text(folder / SETTINGS_FILE, json.dumps(resolved(config), indent=2))
    for name in DRAWINGS:
        draw_perm_spec(spec, folder / name, title=title)
    written = ", ".join([TABLE_FILE, SPEC_FILE, *DRAWINGS, SETTINGS_FILE])
    console.print(f"permutation spec in {folder}: {written}")


def open_folder(config: Config) -> Path:
    """Make the folder that `out_dir` names, or one named after config and time.

    Raises:
        ValueError: it holds a run of another model, or a damaged one.
        OSError: it cannot be written.
    """
    folder = Path(config.out_dir or f"{config.runs_dir}/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_FILE
    if path.is_file() and _model_of(path) != _model(config):
        raise ValueError(
            f"inspect: out_dir must be new or hold a run of the same model; {folder} holds another. "
            "Name another folder."
        )
    return folder


def _model(config: Config) -> tuple[Any, str]:
    return json.loads(json.dumps(model_identity(config.model))), config.data.name


def _model_of(path: Path) -> tuple[Any, str]:
    stored = read_record(path)
    with reading(path, "the settings of a run"):
        return stored["model"], stored["data"]["name"]


def markdown_spec(spec: PermSpec) -> str:
    """The leaves with their shapes and axes, then the groups, as Markdown tables."""
    leaves = [
        ("leaf", "shape", "axes"),
        *((leaf.path, str(leaf.shape), ", ".join(map(str, leaf.axes))) for leaf in spec.leaves),
    ]
    groups = [
        ("group", "units", "nested in"),
        *((group.name, str(group.size), ", ".join(group.nested_in)) for group in spec.groups.values()),
    ]
    notes = "".join(f"\nNote: {note}\n" for note in spec.notes)
    return "\n".join(markdown_rows(rows, numeric=False) for rows in (leaves, groups)) + notes
