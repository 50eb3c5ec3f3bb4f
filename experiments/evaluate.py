"""Evaluate any checkpoint on any data set and task split.

Networks of `reproduce.py --table=mudsc_s1` answer two questions about every digit: they are evaluated on
these alone.

python experiments/evaluate.py --checkpoint=runs/NAME/checkpoints/pair0/autofusion_soft_repeat0
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

import itertools
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app import flags, run
from autofusion_jax.atomic import write_text
from autofusion_jax.checkpoints.orbax_io import load
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.results import flat_metrics
from autofusion_jax.models.registry import Model, build_model
from autofusion_jax.symmetry.transform import check_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from data.dataset import Dataset
from data.files import reading
from data.registry import load_dataset
from data.splits import PROTOCOLS, head_classes, task_labels
from pipeline.endpoints import to_inputs
from pipeline.split import names_of_tasks
from reporting.tables import heading
from tables.mudsc_s1 import TASKS, ClipModel, class_labels

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the checkpoint.", required=True)
DATA = flags.DEFINE_string("data", None, "Data set, as in --config.data.name; by default the checkpoint's.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with the original files of the data set.")
TASK_A = flags.DEFINE_list("task_a", None, "Classes of task A; by default the checkpoint's own.")
TASK_B = flags.DEFINE_list("task_b", None, "Classes of task B; by default the checkpoint's own.")
OUT = flags.DEFINE_string("out", "", "File to write the metrics to, as JSON.")


def rebuild(meta: dict[str, Any], data: Dataset) -> Model:
    """The network of a checkpoint, from what `pipeline.endpoints.network_meta` says of it."""
    tasks, disjoint = meta["tasks"], meta.get("labels", PROTOCOLS[0]) == "disjoint"
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["model"].items()}
    name, cosine = options.pop("name"), meta.get("start", {}).get("class_cosine")
    shape = data.test_images.shape[1:]
    if cosine is not None and tasks == [list(task) for task in TASKS]:
        plain = build_model(name, shape, num_classes=sum(map(len, tasks)), **options)
        return ClipModel(plain.module, plain.input_shape, (1 - cosine) ** 0.5)
    num_classes = data.num_classes if disjoint else max(map(len, tasks))
    return build_model(name, shape, num_classes=num_classes, **options)


def read_network(path: str) -> tuple[Params, dict[str, Any]]:
    """The parameters of a checkpoint, and what it says of itself.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or not of an experiment; names it.
    """
    params, _, meta = load(path)
    with reading(Path(path), "a network that train.py or merge.py stored"):
        tasks = [list(map(int, task)) for task in meta["tasks"]]
        texts = [meta["data"], meta["method"], meta["model"]["name"], meta.get("labels", PROTOCOLS[0])]
        good = len(tasks) >= 2 and all(tasks) and all(isinstance(text, str) for text in texts)
        require(
            good, "it", "its tasks, data, method and model", "lists of classes and names", [tasks, *texts]
        )
    return params, {**meta, "tasks": tasks}


def given_classes(flag: flags.FlagHolder[list[str] | None], num_classes: int) -> list[int] | None:
    """The classes that a flag names; None if it was left out."""
    if flag.value is None:
        return None
    good = flag.value and all(name.strip().isdecimal() and int(name) < num_classes for name in flag.value)
    wanted = f"classes from 0 to {num_classes - 1}, separated by commas"
    require(bool(good), "evaluate", f"--{flag.name}", wanted, ",".join(flag.value) or "nothing")
    return list(map(int, flag.value))


def main(console: Console) -> None:
    params, meta = read_network(CHECKPOINT.value)
    protocol = meta.get("labels", PROTOCOLS[0])
    data = load_dataset(DATA.value or meta["data"], folder=DATA_DIR.value, report=console.print)
    given = [given_classes(flag, data.num_classes) for flag in (TASK_A, TASK_B)]
    with reading(Path(CHECKPOINT.value), "a network of a bundled model"):
        model = rebuild(meta, data)
    if isinstance(model, ClipModel):
        own = data.name == meta["data"] and given == [None, None]
        wanted, got = "left out: this network answers questions of its own", f"{data.name}, {given}"
        require(own, "evaluate", "--data, --task_a and --task_b", wanted, got)
    check_params(model.perm_spec, params, caller="evaluate", name="checkpoint")
    classes = tuple(tuple(new or old) for new, old in itertools.zip_longest(given, meta["tasks"]))
    good = max(map(max, classes)) < data.num_classes
    require(
        good, "evaluate", "the tasks", f"of classes below {data.num_classes}, as {data.name} has", classes
    )
    labels, tasks = task_labels(data.test_labels, classes, protocol), head_classes(classes, protocol)
    if isinstance(model, ClipModel):
        labels = class_labels(data.test_labels)
    names = names_of_tasks(data, len(classes))
    metrics = evaluate(model.apply, params, to_inputs(data.test_images), labels, tasks, names=names)
    shown = [list(task) for task in classes]
    where = f"{data.name}; tasks {shown}, {protocol} labels"
    console.print(f"{meta['method']}, seed {meta['seed']}, on {where}; accuracy (%)")
    table = Table()
    flat = flat_metrics(metrics)
    for name in flat:
        table.add_column(heading(name), justify="right")
    table.add_row(*(f"{value:.2f}" for value in flat.values()))
    console.print(table)
    if OUT.value:
        result = {"checkpoint": CHECKPOINT.value, "data": data.name, "tasks": shown, "metrics": metrics}
        write_text(Path(OUT.value), json.dumps(result, indent=2))
        console.print(f"wrote {OUT.value}")


if __name__ == "__main__":
    run(main, with_config=False)
