import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.evaluation.accuracy import classify, evaluate, task_metrics, within_metrics
from autofusion_jax.evaluation.interpolation import interpolation_curve
from pipeline.controls import ridge_head
from tests.conftest import inputs_for, params_for


def test_metrics_by_hand():
    """Three of four right: task A (classes 0, 1) 1 of 2, task B (class 2) 2 of 2; class 3 is no task's."""
    labels = np.array([0, 1, 2, 2, 3])
    metrics = task_metrics(np.array([0, 2, 2, 2, 0]), labels, [[0, 1], [2]])
    assert {k: float(v) for k, v in metrics.items()} == {"joint": 75, "task_a": 50, "task_b": 100, "avg": 75}


def test_metrics_are_batched():
    labels = np.array([0, 1])
    metrics = task_metrics(np.array([[0, 1], [1, 1], [1, 0]]), labels, [[0], [1]])
    assert metrics["joint"].tolist() == [100, 50, 0]


def test_within_metrics_by_hand():
    """Logits of four inputs over classes 0 to 3; tasks {0, 1} and {2, 3}; class 3 wins nearly everywhere."""
    logits = jnp.array([[1.0, 2, 0, 9], [2, 1, 0, 9], [0, 1, 5, 9], [8, 1, 5, 6]])
    labels, tasks = np.array([1, 1, 2, 3]), [[0, 1], [2, 3]]
    assert evaluate(lambda p, x: logits, {}, jnp.zeros((4, 1)), labels, tasks) == {
        "joint": 0, "task_a": 0, "task_b": 0, "avg": 0,
        "task_a_within": 50, "task_b_within": 50, "avg_within": 50,
    }  # fmt: skip


def test_every_input_can_have_a_label_in_each_task():
    """The same two images, asked two questions: only the accuracies within the tasks are defined."""
    logits = jnp.array([[1.0, 2, 7, 6], [2, 1, 7, 6]])
    labels = np.array([[1, 1], [2, 2]])
    metrics = evaluate(lambda p, x: logits, {}, jnp.zeros((2, 1)), labels, [[0, 1], [2, 3]])
    assert metrics == {"task_a_within": 50, "task_b_within": 100, "avg_within": 75}


def test_shared_logits_by_hand():
    """Five images of two tasks that share two logits: the first two are of A, the others of B."""
    logits = jnp.array([[3.0, 1], [3, 1], [0, 1], [0, 1], [2, 1]])  # classes 0, 0, 1, 1, 0
    labels = np.array([[0, 1, -1, -1, -1], [-1, -1, 1, 0, 0]])
    metrics = evaluate(lambda p, x: logits, {}, jnp.zeros((5, 1)), labels, [[0, 1], [0, 1]])
    assert metrics["joint"] == pytest.approx(60) and metrics["task_a"] == 50
    assert metrics["task_b"] == pytest.approx(200 / 3) and metrics["avg"] == pytest.approx((50 + 200 / 3) / 2)
    assert metrics["avg_within"] == metrics["avg"]  # every class is a class of both tasks


def test_three_tasks_by_hand():
    """Classes {0}, {1, 2}, {3}; of six images 1 of 1, 2 of 4 and 0 of 1 are right."""
    logits = jnp.eye(4)[jnp.array([0, 1, 2, 0, 3, 1])]
    labels, tasks = np.array([0, 1, 2, 1, 2, 3]), [[0], [1, 2], [3]]
    metrics = evaluate(lambda p, x: logits, {}, jnp.zeros((6, 1)), labels, tasks)
    assert metrics["tasks"] == {"task_a": 100, "task_b": 50, "task_c": 0}
    assert metrics["joint"] == 50 and metrics["avg"] == 50
    assert metrics["tasks_within"] == {
        "task_a": 100,
        "task_b": 75,
        "task_c": 100,
    }  # a tie
    named = evaluate(lambda p, x: logits, {}, jnp.zeros((6, 1)), labels, tasks, names=["x", "y", "z"])
    assert list(named) == ["joint", "tasks", "avg", "tasks_within", "avg_within"]
    assert named["tasks"] == {"x": 100, "y": 50, "z": 0}
    with pytest.raises(ValueError, match="tasks must be two lists of classes or more; got 1"):
        task_metrics(labels, labels, [[0, 1, 2, 3]])


def test_several_heads_by_hand():
    """Head k answers within task k; over all classes the surer head answers."""
    first = jnp.array([[5.0, 0, 0, 0], [0, 5, 0, 0], [0, 1, 0, 0]])
    second = jnp.array([[0.0, 0, 0, 1], [0, 0, 9, 0], [0, 0, 0, 5]])
    overall, within = classify(jnp.stack([first, second], 1), [[0, 1], [2, 3]])
    assert overall.tolist() == [0, 2, 3] and within.tolist() == [[0, 1, 1], [3, 2, 3]]
    metrics = evaluate(
        lambda p, x: jnp.stack([first, second]), {}, jnp.zeros((3, 1)), np.array([0, 1, 3]), [[0, 1], [2, 3]],
        num_heads=2,
    )  # fmt: skip
    assert metrics["joint"] == pytest.approx(200 / 3) and metrics["task_a"] == 50 and metrics["task_b"] == 100
    assert metrics["avg_within"] == 100
    with pytest.raises(ValueError, match="outputs must be of one head or of 3, one a task; got 2 heads"):
        classify(jnp.zeros((4, 2, 5)), [[0], [1], [2]])


def test_within_metrics_are_batched():
    within = np.array([[[0, 0], [1, 0]], [[2, 2], [2, 3]]])  # [tasks, batch, n]
    metrics = within_metrics(within, np.array([0, 3]), [[0, 1], [2, 3]])
    assert metrics["task_a_within"].tolist() == [100, 0] and metrics["task_b_within"].tolist() == [0, 100]


def test_a_task_without_inputs_is_refused():
    with pytest.raises(ValueError, match=r"labels must be some of classes \[7\]; got none"):
        task_metrics(np.array([0]), np.array([0]), [[0], [7]])


def test_curve_ends_at_the_endpoints(model):
    a, b, spec, x = params_for(model, 0), params_for(model, 1), model.perm_spec, inputs_for(model, 60)
    labels = np.arange(60) % 3
    perms = af.random_perms(spec, jax.random.key(0))
    tasks = [[0], [1, 2]]
    curve = interpolation_curve(model.apply, spec, a, b, perms, jnp.linspace(0, 1, 5), x, labels, tasks)
    assert curve["joint"].shape == (5,)
    for end, params in ((-1, a), (0, b)):
        expected = evaluate(model.apply, params, x, labels, tasks)
        assert {name: values[end] for name, values in curve.items()} == pytest.approx(expected)


def test_ridge_head_against_normal_equations():
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((50, 6)), rng.standard_normal((50, 3))
    kernel, bias = ridge_head(
        jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32), ridge=0.1
    )
    centred = features - features.mean(0)
    gram = centred.T @ centred
    expected = np.linalg.solve(
        gram + 0.1 * np.trace(gram) / 6 * np.eye(6), centred.T @ (targets - targets.mean(0))
    )
    np.testing.assert_allclose(kernel, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(features.mean(0) @ kernel + bias, targets.mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="ridge must be > 0"):
        ridge_head(jnp.ones((2, 2)), jnp.ones((2, 2)), ridge=0.0)
