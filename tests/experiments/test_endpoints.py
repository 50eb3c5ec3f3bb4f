"""How a config becomes tasks, networks and the images that merges see."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from configs import get_config
from data.registry import DATASETS
from pipeline.endpoints import open_run
from pipeline.split import draw_split


def setting(**changes):
    config = get_config("digits_mlp")
    for name, value in changes.items():
        owner = config.data if hasattr(config.data, name) else config.task
        setattr(owner, name, value)
    return open_run(config, Console(file=io.StringIO()))


def draw(run, number):
    return draw_split(run.config, run.dataset, number)


def test_disjoint_halves():
    split = draw(setting(), 0)
    assert split.tasks == split.classes and split.roles == ("model_a", "model_b")
    assert split.names == ("task_a", "task_b") and split.train_labels.ndim == 1


def test_shared_labels():
    shared = setting(labels="shared", sizes=(3, 7))
    split, labels = draw(shared, 1), shared.dataset.train_labels
    assert shared.model.module.num_classes == 7 and split.tasks == (tuple(range(3)), tuple(range(7)))
    for row, role, classes in zip(split.train_labels, split.roles, split.classes):
        assert (np.asarray(classes)[row[split.train[role]]] == labels[split.train[role]]).all()
    assert (split.test_labels >= 0).sum(0).tolist() == [1] * len(shared.dataset.test_labels)


def test_three_tasks():
    three = setting(sizes=(3, 3, 4))
    split = draw(three, 0)
    assert split.roles == ("model_a", "model_b", "model_c") and three.model.module.num_classes == 10
    indices = np.concatenate([split.train[role] for role in split.roles])
    assert sorted(indices) == sorted(split.train["real_labels"])


def test_joined_data_sets_are_tasks(monkeypatch):
    names = ("digits", "digits_b", "digits_c")
    for name in names:
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS["digits"], name=name))
    joined = setting(name="+".join(names), labels="shared")
    split = draw(joined, 0)
    assert split.names == names and split.tasks == (tuple(range(10)),) * 3
    assert joined.model.module.num_classes == 10
    assert setting(name="+".join(names)).model.module.num_classes == 30
    with pytest.raises(ValueError, match="sizes must be empty: each joined data set is a task"):
        setting(name="digits+digits_b", sizes=(5, 15))


def test_imbalance_is_among_the_unlabelled_alone():
    plain, uneven = setting(), setting(ratio=5.0)
    one, other = draw(plain, 0), draw(uneven, 0)
    assert (one.train["model_a"] == other.train["model_a"]).all()
    assert len(other.unlabelled) == len(one.unlabelled)
    share = np.isin(other.unlabelled, other.train["model_a"]).mean()
    assert share == pytest.approx(5 / 6, abs=0.03)
    assert plain.checkpoint_root == uneven.checkpoint_root


def test_what_endpoints_depend_on():
    """Not on what merges see; on how the tasks are cut and called."""
    root = setting().checkpoint_root
    assert setting(num_unlabelled=50).checkpoint_root == root == setting(sizes=(5, 5)).checkpoint_root
    others = [setting(**change).checkpoint_root for change in (
        {"labels": "shared"}, {"sizes": (2, 8)}, {"num_train": 500}, {"num_validation": 90},
    )]  # fmt: skip
    assert len({root, *others}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (3, 3)}, r"sizes must be two or more, each >= 1, with sum 10; got \(3, 3\)"),
        ({"labels": "share"}, "task.labels must be .*; got 'share'. Did you mean 'shared'"),
        ({"ratio": 0.0}, "task.ratio must be a number > 0; got 0.0"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        setting(**change)
