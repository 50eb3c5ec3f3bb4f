"""FusionBench's run: images that say their task, who sees which images, what is measured."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from autofusion_jax.evaluation.networks import Network
from autofusion_jax.models.registry import build_model
from data.corruptions import corrupt
from data.registry import DATASETS
from pipeline.endpoints import to_inputs
from pipeline.reference_rows import ENSEMBLE
from pipeline.rows import Row, make_networks
from tables.fusion import get_config
from tables.fusion_source import EXCLUDED, TaskModel, marked, open_run

NAMES = ("digits", "digits_b", "digits_c", "digits_d")


def tiny_config(runs_dir, **changes):
    config = get_config(**{"seen": NAMES[:3], "unseen": NAMES[3:], "test_images": 40, **changes})
    config.data.name, config.data.num_train, config.data.num_unlabelled = "+".join(NAMES), 400, 48
    config.model = dataclasses.replace(config.model, patch=4, dim=8, depth=1, num_heads=2, mlp_dim=8)
    config.runs_dir, config.pretrain_images = str(runs_dir), 30
    for options in (config.train, config.pretrain):
        options.epochs, options.segment = 1, 2
    return config


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """Where networks are kept; data sets named as above are there meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(DATASETS, name, dataclasses.replace(DATASETS["digits"], name=name))
        yield tmp_path_factory.mktemp("runs")


def opened(config):
    return open_run(config, Console(file=io.StringIO())).pair(0)


@pytest.fixture(scope="module")
def pair(runs_dir):
    return opened(tiny_config(runs_dir))


@pytest.mark.slow
def test_images_say_which_classes_they_ask_about():
    plain = build_model("vit", (8, 8, 1), num_classes=5, patch=4, dim=8, depth=1, num_heads=2, head="cosine")
    model = TaskModel(plain.module, (8, 8, 2), ((0, 1), (2, 3, 4)), 0.5)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    params = model.init(jax.random.key(0))
    logits = model.apply(params, to_inputs(marked(images, np.array([2, 0, 1]))))
    expected = 0.5 * plain.apply(params, to_inputs(images))
    excluded = [[True, True, False, False, False], [False] * 5, [False, False, True, True, True]]
    np.testing.assert_allclose(logits, np.where(excluded, EXCLUDED, expected), rtol=1e-5)
    grown = {group.name for group in model.perm_spec.groups.values()}
    assert grown == {group.name for group in plain.perm_spec.groups.values()}


@pytest.mark.slow
def test_who_sees_which_images(pair):
    split, data = pair.split, pair.run.dataset
    assert split.roles == ("model_a", "model_b", "model_c") and split.names == NAMES
    assert [len(split.train[role]) for role in split.roles] == [100] * 3
    assert len(split.train["real_labels"]) == 300 and len(split.train["pretrained"]) == 120
    for task, (role, own) in enumerate(zip(split.roles, pair.own_inputs)):
        assert set(data.train_labels[split.train[role]] // 10) == {task}
        assert len(own) == 12 and set(np.unique(np.rint(255 * own[..., 1]))) == {task + 1}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), pair.start, pair.models[0])
    assert jax.tree.leaves(moved).count(True) > len(jax.tree.leaves(moved)) / 2


@pytest.mark.slow
def test_what_is_measured(pair):
    """Told the task, of all classes, and the means over seen and unseen tasks."""
    params, model = pair.models[1], pair.run.model
    metrics = pair.evaluate(Network(params, model.apply))
    logits = np.asarray(model.apply(params, pair.run.test_x.at[..., -1].set(0)))
    labels = pair.split.test_labels
    within = []
    for task in range(4):
        own = labels // 10 == task
        assert own.sum() == 40
        columns = slice(10 * task, 10 * task + 10)
        within.append(100 * np.mean(logits[own, columns].argmax(1) == labels[own] - 10 * task))
    assert list(metrics["tasks_within"].values()) == pytest.approx(within)
    assert metrics["seen_within"] == pytest.approx(np.mean(within[:3]))
    assert metrics["unseen_within"] == pytest.approx(within[3])
    assert metrics["joint"] == pytest.approx(100 * np.mean(logits.argmax(1) == labels))


@pytest.mark.slow
def test_merges_see_the_corrupted_images_that_are_measured(pair, runs_dir):
    config = tiny_config(runs_dir, unseen=(), corruption="contrast", sees_test=True)
    corrupted = opened(config)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, pair.models, corrupted.models))  # found again
    clean, after = pair.run.test_x[:120], corrupted.run.test_x
    before = np.rint(clean[..., :1] * 255).astype(np.uint8)
    np.testing.assert_array_equal(after[..., :1], to_inputs(corrupt(before, "contrast", seed=0)))
    np.testing.assert_array_equal(after[..., 1], clean[..., 1])
    for own in corrupted.own_inputs:
        assert (np.asarray(own)[:, None] == np.asarray(after)).all((2, 3, 4)).any(1).all()
    apply_fn = corrupted.run.model.apply
    each = [corrupted.evaluate(Network(params, apply_fn))["tasks_within"] for params in corrupted.models]
    individual = corrupted.evaluate(make_networks(Row(ENSEMBLE, ""), corrupted)[0])["tasks_within"]
    assert individual == {name: one[name] for name, one in zip(NAMES, each)}
