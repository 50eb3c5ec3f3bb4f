"""Where the endpoint pairs of tables come from."""

from rich.console import Console

from pipeline.endpoints import draw_pair, get_network, open_setting, to_inputs
from tables.schema import Case, Source, TableConfig


def open_class_halves(config: TableConfig, console: Console) -> Source:
    """Two halves of the classes of a data set, one network trained on each, as `merge.py` does."""
    setting = open_setting(config, console)
    dataset = setting.dataset

    def open_pair(number: int) -> Case:
        pair = draw_pair(setting, number)
        (params_a, seconds_a), (params_b, seconds_b) = (
            get_network(setting, pair, role) for role in ("model_a", "model_b")
        )
        seen = pair.unlabelled
        return Case(
            number, pair.seed, setting.model, (params_a, params_b), (seconds_a, seconds_b), pair.tasks,
            to_inputs(dataset.train_images[seen]), dataset.train_labels[seen],
            setting.test_x, dataset.test_labels,
        )  # fmt: skip

    return Source(dataset.sha256, dataset.notes, open_pair)
