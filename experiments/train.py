"""Train the endpoint pairs of a config, or find them, and show how good they are.

python experiments/train.py --config=mnist_vgg
"""

from rich.console import Console
from rich.table import Table

from app import define_config, run
from autofusion_jax.evaluation.accuracy import evaluate
from pipeline.endpoints import draw_pair, get_network, network_path, open_setting, to_inputs
from reporting.records import flat_metrics

CONFIG = define_config()


def main(console: Console) -> None:
    config = CONFIG.value
    config.train.check()
    config.task.check()
    setting = open_setting(config, console)
    table = Table("network", "classes", "own task, validation", "own task, test", "seconds", "checkpoint")
    for number in range(config.pairs):
        pair = draw_pair(setting, number)
        held_out = to_inputs(setting.dataset.train_images[pair.validation])
        held_out_labels = pair.train_labels[..., pair.validation]
        for role, name, classes in zip(pair.roles, pair.names, pair.classes):
            params, seconds = get_network(setting, pair, role)
            scores = [
                flat_metrics(evaluate(setting.model.apply, params, x, labels, pair.tasks, names=pair.names))
                for x, labels in ((held_out, held_out_labels), (setting.test_x, pair.test_labels))
            ]
            shown = [f"{score[name]:.2f} %" for score in scores]
            table.add_row(
                f"{role}, seed {pair.seed}", str(list(classes)), *shown,
                f"{seconds:.1f}", str(network_path(setting, pair, role)),
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    run(main)
