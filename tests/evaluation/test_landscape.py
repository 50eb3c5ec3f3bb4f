import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.evaluation.landscape import loss_landscape, merge_parents, pca_plane
from tests.conftest import inputs_for, params_for

TASKS = [[0, 1], [2, 3]]


def linear(params, x):
    return x @ params["w"]


def networks(count, seed=0):
    w = np.random.default_rng(seed).standard_normal((count, 3, 4)).astype(np.float32)
    return [{"w": jnp.asarray(value), "steps": jnp.array(i)} for i, value in enumerate(w)]


def direct_loss(w, x, labels, task):
    chosen = np.isin(labels, task)
    logits = (x @ w)[chosen][:, task]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.mean([row[task.index(label)] for row, label in zip(log_probs, labels[chosen])])


def test_three_networks_lie_in_their_plane():
    nets = networks(3)
    plane = pca_plane(nets)
    assert plane.explained.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-5)
    assert plane.coords[0].max() < 0
    for net, coord in zip(nets, plane.coords):
        np.testing.assert_allclose(plane.origin + coord @ plane.axes, net["w"].ravel(), atol=1e-5)


def test_the_plane_is_that_of_a_singular_value_decomposition():
    nets = networks(6)
    plane = pca_plane(nets)
    vectors = np.stack([np.asarray(net["w"]).ravel() for net in nets])
    _, values, axes = np.linalg.svd(vectors - vectors.mean(0))
    np.testing.assert_allclose(np.abs(plane.axes @ axes[:2].T), np.eye(2), atol=1e-4)
    np.testing.assert_allclose(plane.explained, values[:2] ** 2 / np.sum(values**2), rtol=1e-4)


@pytest.mark.parametrize("both", [False, True])
def test_losses_equal_direct_evaluation(both):
    """Each point of the grid, each task, in float64; every input labelled in one task or in both."""
    nets, rng = networks(3, 1), np.random.default_rng(2)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    labels = rng.integers(0, 4, 40)
    if both:
        labels = np.stack([labels % 2, 2 + labels % 2])
    found = loss_landscape(linear, nets, jnp.asarray(x), labels, TASKS, points=4, margin=0.5)
    plane = pca_plane(nets)
    assert found.xs[0] < plane.coords[:, 0].min() and found.ys[-1] > plane.coords[:, 1].max()
    for row, y in enumerate(found.ys):
        for column, u in enumerate(found.xs):
            w = np.asarray(plane.origin + jnp.array([u, y]) @ plane.axes, np.float64).reshape(3, 4)
            rows = labels if both else (labels, labels)
            a, b = (direct_loss(w, x, line, task) for line, task in zip(rows, TASKS))
            got = [found.losses[name][row, column] for name in ("task_a", "task_b", "average")]
            np.testing.assert_allclose(got, [a, b, (a + b) / 2], rtol=2e-4)


def test_prepare_is_applied_at_every_point():
    x, labels = jnp.ones((4, 3)), np.array([0, 1, 2, 3])
    found = loss_landscape(
        linear, networks(3), x, labels, TASKS, points=2, prepare=lambda p: jax.tree.map(jnp.zeros_like, p)
    )
    np.testing.assert_allclose(found.losses["average"], np.log(2), rtol=1e-6)


def test_parents_of_a_merge_have_it_as_their_mean(mlp):
    models, spec, x = [params_for(mlp, 0), params_for(mlp, 1)], mlp.perm_spec, inputs_for(mlp)
    result = af.merge(*models, spec, None, method="weight_matching")
    parents = merge_parents(spec, models, result)
    jax.tree.map(
        lambda a, b, m: np.testing.assert_allclose((a + b) / 2, m, atol=1e-6), *parents, result.params
    )
    np.testing.assert_allclose(mlp.apply(parents[1], x), mlp.apply(models[1], x), atol=1e-4)


def test_parents_of_merge_matrices(mlp):
    """Matrices that halve each pair of units: the parents' mean is the sum `M_k W_k U_k`."""
    models, spec = [params_for(mlp, 0), params_for(mlp, 1)], mlp.perm_spec
    result = af.merge(*models, spec, None, method="weight_matching")
    halves = tuple(
        {name: 0.5 * jnp.eye(group.size)[perms[name]] for name, group in spec.groups.items()}
        for perms in (af.identity_perms(spec), result.perms)
    )
    zipped = dataclasses.replace(result, alignments=halves, weights=(1.0, 1.0))
    parents = merge_parents(spec, models, zipped)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        parents, merge_parents(spec, models, result),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pca_plane(networks(2)), "networks must be three or more; got 2"),
        (lambda: pca_plane(networks(1) * 3), "networks must be not all on one line"),
        (lambda: loss_landscape(linear, networks(3), jnp.ones((2, 3)), np.array([0, 2]), TASKS, points=1),
         "points must be an integer >= 2"),
        (lambda: loss_landscape(linear, networks(3), jnp.ones((2, 3)), np.array([0, 0]), TASKS),
         r"labels must be some of classes \[2, 3\]"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_ensemble_has_no_parents(mlp):
    models, spec, x = [params_for(mlp, 0), params_for(mlp, 1)], mlp.perm_spec, inputs_for(mlp)
    result = af.merge(*models, spec, x, method="confidence_ensemble")
    with pytest.raises(ValueError, match="result must be a merge with one head"):
        merge_parents(spec, models, result)
