"""Evaluate any checkpoint on any data set and task split.

python experiments/evaluate.py --checkpoint=runs/NAME/checkpoints/pair0/autofusion_soft_repeat0
"""

import json
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from app import run
from autofusion_jax.checkpoints.orbax_io import load
from autofusion_jax.data.registry import DATASETS, load_dataset
from autofusion_jax.evaluation.accuracy import ALL_METRICS, evaluate
from autofusion_jax.models.registry import build_model
from autofusion_jax.reporting.records import write_text
from autofusion_jax.reporting.tables import HEADINGS
from autofusion_jax.symmetry.transform import check_params
from pipeline.endpoints import to_inputs

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the checkpoint.", required=True)
DATA = flags.DEFINE_enum("data", None, sorted(DATASETS), "Data set; by default the checkpoint's own.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with the original files of the data set.")
TASK_A = flags.DEFINE_list("task_a", None, "Classes of task A; by default the checkpoint's own.")
TASK_B = flags.DEFINE_list("task_b", None, "Classes of task B; by default the checkpoint's own.")
OUT = flags.DEFINE_string("out", "", "File to write the metrics to, as JSON.")


def main(console: Console) -> None:
    stored = load(CHECKPOINT.value)
    meta = stored.meta
    if "model" not in meta:
        raise ValueError(f"evaluate: {CHECKPOINT.value} must be a checkpoint of train.py or merge.py.")
    data = load_dataset(DATA.value or meta["data"], folder=DATA_DIR.value, report=console.print)
    options = dict(meta["model"])
    model = build_model(
        options.pop("name"), data.test_images.shape[1:], num_classes=data.num_classes,
        **{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()},
    )  # fmt: skip
    check_params(model.perm_spec, stored.params, caller="evaluate", name="checkpoint")
    tasks = [
        meta["tasks"][i] if flag.value is None else [int(c) for c in flag.value]
        for i, flag in enumerate((TASK_A, TASK_B))
    ]
    metrics = evaluate(model.apply, stored.params, to_inputs(data.test_images), data.test_labels, tasks)
    console.print(f"{meta['method']}, seed {meta['seed']}, on {data.name}; tasks {tasks}; accuracy (%)")
    table = Table()
    for name in ALL_METRICS:
        table.add_column(HEADINGS[name], justify="right")
    table.add_row(*(f"{metrics[name]:.2f}" for name in ALL_METRICS))
    console.print(table)
    if OUT.value:
        result = {"checkpoint": CHECKPOINT.value, "data": data.name, "tasks": tasks, "metrics": metrics}
        write_text(Path(OUT.value), json.dumps(result, indent=2))
        console.print(f"wrote {OUT.value}")


if __name__ == "__main__":
    run(main, with_config=False)
