"""Train the endpoint pairs of a config, or find them, and show how good they are.

python experiments/train.py --config=mnist_vgg
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

from rich.console import Console
from rich.table import Table

from app import define_config, run
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.results import flat_metrics
from pipeline.endpoints import get_network, network_path, open_run, to_inputs
from pipeline.split import draw_split

CONFIG = define_config()


def main(console: Console) -> None:
    config = CONFIG.value
    opened = open_run(config, console)
    table = Table("network", "classes", "own task, validation", "own task, test", "seconds", "checkpoint")
    for number in range(config.pairs):
        split = draw_split(config, opened.dataset, number)
        held_out = to_inputs(opened.dataset.train_images[split.validation])
        held_out_labels = split.train_labels[..., split.validation]
        for role, name, classes in zip(split.roles, split.names, split.classes):
            params, seconds = get_network(opened, split, role)
            scores = [
                flat_metrics(evaluate(opened.model.apply, params, x, labels, split.tasks, names=split.names))
                for x, labels in ((held_out, held_out_labels), (opened.test_x, split.test_labels))
            ]
            shown = [f"{score[name]:.2f} %" for score in scores]
            table.add_row(
                f"{role}, seed {split.seed}", str(list(classes)), *shown,
                f"{seconds:.1f}", str(network_path(opened, split, role)),
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    run(main)
