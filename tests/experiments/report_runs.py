"""Small folders of runs, as merge.py and reproduce.py write them, for the tests of the report."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from autofusion_jax.evaluation.results import Result, write_results

HOSTILE = "<script>alert(1)</script>\"'&amp;"
GAMMAS = 5
ACCURACY = {
    ("model_a", None): 50.0,
    ("interpolation", None): 30.0,
    ("autofusion_paper", "soft"): 60.0,
    ("autofusion", "soft"): 91.0,
    ("autofusion", "hard"): 88.0,
    ("zipit", None): 70.0,
    ("teacher_confidence", None): 93.0,
    ("control_ridge_head", None): 92.0,
    ("real_labels_training", None): 99.0,
}


def record(config, method, variant, pair, repeat, joint, path=None):
    metrics = {"joint": joint, "task_a": joint + 0.5, "task_b": joint - 0.5, "avg": joint}
    return Result(config, method, variant, pair, repeat, pair, metrics, 1234, 1.5, path)


def write_merge(folder: Path, name: str = "digits_mlp", pairs: int = 2) -> None:
    folder.mkdir(parents=True)
    data = {"name": "digits", "dir": "secret/place", "num_unlabelled": 500}
    config = {"name": name, "data": data, "pairs": pairs, "out_dir": "secret/place", "runs_dir": "runs"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "table.md").write_text("Caption.\n\n| a |\n| --- |\n\nNote: a word of *caution*.\n")
    records = []
    for (method, variant), joint in ACCURACY.items():
        for pair in range(pairs):
            path = f"checkpoints/pair{pair}/{method}_{variant}" if variant else None
            records.append(record(name, method, variant, pair, 0, joint + pair, path))
            if path:
                (folder / path).mkdir(parents=True)
                history = {"retain": [3.0, 2.0, 1.0 + pair], "align": [1.0, 2.0, 3.0]}
                (folder / path / "meta.json").write_text(json.dumps({"history": history}))
    write_results(folder / "results.jsonl", records)
    arrays = {}
    for method, variants in {"interpolation": [""], "autofusion": ["soft", "hard"]}.items():
        for number, variant in enumerate(variants):
            base = np.linspace(10, 90, GAMMAS) + number
            arrays |= {
                f"{method}/curve/{variant}/{m}": base + i for i, m in enumerate(("joint", "task_a", "task_b"))
            }
            for group in ("dense_0", "dense_1"):
                arrays[f"{method}/matrix/{variant}/{group}"] = np.eye(8)[::-1] if variant else np.eye(8)
    np.savez(folder / "drawn.npz", allow_pickle=False, **arrays)


def write_panel(folder: Path, table: str, panel: str) -> None:
    folder.mkdir(parents=True)
    rows = {
        "model_a": {"method": None, "options": {}},
        "half": {"method": "zipit", "options": {"stop_at": "x"}},
        "average": {"method": "interpolation", "options": {}},
    }
    stored = {"table": table, "panel": panel, "config": {"name": table}, "rows": rows}
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "results.md").write_text(f"# Table {table}: Panel {panel}\n\nWhat was *run*.\n\n| a |\n")
    lines = [f"Model A,1,50.0,,{50}", "Half way,1,95.0,,", "The mean,1,20.0,,21.5", "Not run,0,,,77.0"]
    head = "method,pairs,joint_mean,joint_std_pairs,joint_published"
    (folder / "results.csv").write_text("\n".join([head, *lines]) + "\n")
    joints = {"average": 20.0, "half": 95.0, "model_a": 50.0}  # the table's order is that of its settings
    label = f"{table}/{panel}"
    write_results(
        folder / "results.jsonl", [record(label, name, None, 0, 0, joint) for name, joint in joints.items()]
    )


def write_figure(folder: Path) -> None:
    folder.mkdir(parents=True)
    panels = []
    for layer in ("conv_0", "conv_1"):
        for method in ("model_a", "autofusion"):
            file = f"{layer}_{method}.png"
            Image.new("L", (6, 6)).save(folder / file)
            alt = f"{method} at {layer}, {HOSTILE}"
            panels.append({"file": file, "alt": alt, "layer": layer, "method": method, "sample": None})
    series = [
        {"name": name, "metric": metric, "y": [1.0, None, 3.0], "error": [0.1, None, 0.2]}
        for metric, names in {"joint": ("MLP", "VGG"), "task_a": ("MLP",)}.items()
        for name in names
    ]
    figure = {
        "figure": "6", "title": "Activation maps", "caption": "What is seen.",
        "command": "python experiments/reproduce.py --figure=6", "panels": panels,
        "curves": {"x_title": "x", "y_title": "y", "x": [1, 2, 4], "series": series},
    }  # fmt: skip
    (folder / "figure.json").write_text(json.dumps(figure))


def write_all(root: Path) -> Path:
    """Two merge runs, one of a hostile name, a table of two panels, and a figure."""
    write_merge(root / "digits")
    write_merge(root / "hostile", HOSTILE, pairs=1)
    for panel in ("mlp", "vgg"):
        write_panel(root / "table_1" / panel, "1", panel)
    (root / "table_1" / "results.md").write_text("# Table 1\n\n## Panel mlp\n")
    Image.new("L", (40, 20)).save(root / "table_1" / "sweep.png")
    write_figure(root / "figure_6")
    return root
