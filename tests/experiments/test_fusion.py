"""FusionBench's setting: images that say their task, who sees which images, what is measured."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from autofusion_jax.data.corruptions import corrupt
from autofusion_jax.data.registry import DATASETS
from autofusion_jax.models.registry import build_model
from pipeline.endpoints import to_inputs
from pipeline.rows import Outcome
from tables.fusion import get_config
from tables.fusion_source import EXCLUDED, TaskModel, marked, open_source
from tables.runner import run_entry
from tables.schema import ENSEMBLE, Entry

NAMES = ("digits", "digits_b", "digits_c", "digits_d")


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS["digits"], name=name))
    config = get_config(seen=NAMES[:3], unseen=NAMES[3:], test_images=40)
    config.data.name, config.data.num_train, config.data.num_unlabelled = "+".join(NAMES), 400, 48
    config.model = dataclasses.replace(config.model, patch=4, dim=8, depth=1, num_heads=2, mlp_dim=8)
    config.pretrain_images, config.runs_dir = 30, str(tmp_path)
    for options in (config.train, config.pretrain):
        options.epochs, options.segment = 1, 2
    return config


def opened(config):
    return open_source(config, Console(file=io.StringIO())).open_pair(0)


def test_images_say_which_classes_they_ask_about():
    plain = build_model("vit", (8, 8, 1), num_classes=5, patch=4, dim=8, depth=1, num_heads=2, head="cosine")
    model = TaskModel(plain.module, (8, 8, 2), ((0, 1), (2, 3, 4)))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    params = model.init(jax.random.key(0))
    logits = model.apply(params, to_inputs(marked(images, np.array([2, 0, 1]))))
    expected = plain.apply(params, to_inputs(images))
    excluded = [[True, True, False, False, False], [False] * 5, [False, False, True, True, True]]
    np.testing.assert_allclose(logits, np.where(excluded, EXCLUDED, expected), rtol=1e-5)
    grown = {group.name for group in model.perm_spec.groups.values()}
    assert grown == {group.name for group in plain.perm_spec.groups.values()}


def test_who_sees_which_images(config):
    context = opened(config)
    pair, data = context.pair, context.setting.dataset
    assert pair.roles == ("model_a", "model_b", "model_c") and pair.names == NAMES
    assert [len(pair.train[role]) for role in pair.roles] == [100] * 3
    assert len(pair.train["real_labels"]) == 300 and len(pair.train["pretrained"]) == 120
    for task, (role, own) in enumerate(zip(pair.roles, context.own_inputs)):
        assert set(data.train_labels[pair.train[role]] // 10) == {task}
        assert len(own) == 12 and set(np.unique(np.rint(255 * own[..., 1]))) == {task + 1}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), context.start, context.models[0])
    assert jax.tree.leaves(moved).count(True) > len(jax.tree.leaves(moved)) / 2


def test_what_is_measured(config):
    """Told the task, of all classes, and the means over seen and unseen tasks."""
    context = opened(config)
    params, model = context.models[1], context.setting.model
    metrics = context.evaluate(Outcome(params, model.apply))
    logits = np.asarray(model.apply(params, context.setting.test_x.at[..., -1].set(0)))
    labels = context.pair.test_labels
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


def test_merges_see_the_corrupted_images_that_are_measured(config):
    clean = opened(config)
    config.unseen, config.corruption, config.sees_test = (), "contrast", True
    context = opened(config)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, clean.models, context.models))  # found, not trained
    before = np.asarray(clean.setting.test_x[:120, ..., :1] * 255).round().astype(np.uint8)
    after = context.setting.test_x
    np.testing.assert_array_equal(after[..., :1], to_inputs(corrupt(before, "contrast", seed=0)))
    np.testing.assert_array_equal(after[..., 1], clean.setting.test_x[:120, ..., 1])
    for own in context.own_inputs:
        assert (np.asarray(own)[:, None] == np.asarray(after)).all((2, 3, 4)).any(1).all()
    individual = run_entry(Entry(ENSEMBLE, ""), context, None)[0]
    each = [context.evaluate(Outcome(params, context.setting.model.apply)) for params in context.models]
    found = context.evaluate(individual)["tasks_within"]
    assert found == {name: one["tasks_within"][name] for name, one in zip(NAMES, each)}


def test_each_from_its_own_start(config):
    config.pretrain_images, config.unseen = 0, ()
    context = opened(config)
    first = context.setting.model.init(jax.random.fold_in(jax.random.key(config.seed), 0))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, context.start, first))
