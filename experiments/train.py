"""Train the endpoint pairs of a config, or find them, and show how good they are.

python experiments/train.py --config=mnist_vgg
"""

from rich.console import Console
from rich.table import Table

from app import define_config, run
from autofusion_jax.evaluation.accuracy import evaluate
from pipeline.endpoints import draw_pair, get_network, network_path, open_setting, to_inputs

CONFIG = define_config()


def main(console: Console) -> None:
    config = CONFIG.value
    config.train.check()
    setting = open_setting(config, console)
    table = Table("network", "classes", "own task, validation", "own task, test", "seconds", "checkpoint")
    data = setting.dataset
    for number in range(config.pairs):
        pair = draw_pair(setting, number)
        held_out = to_inputs(data.train_images[pair.validation])
        for role, metric, task in (("model_a", "task_a", 0), ("model_b", "task_b", 1)):
            params, seconds = get_network(setting, pair, role)
            scores = [
                evaluate(setting.model.apply, params, x, labels, pair.tasks)[metric]
                for x, labels in (
                    (held_out, data.train_labels[pair.validation]),
                    (setting.test_x, data.test_labels),
                )
            ]
            table.add_row(
                f"{role}, seed {pair.seed}", str(list(pair.tasks[task])), *(f"{s:.2f} %" for s in scores),
                f"{seconds:.1f}", str(network_path(setting, pair, role)),
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    run(main)
