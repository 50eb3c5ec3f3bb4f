import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.evaluation.accuracy import evaluate, task_metrics
from autofusion_jax.evaluation.controls import ridge_head
from autofusion_jax.evaluation.interpolation import interpolation_curve
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
