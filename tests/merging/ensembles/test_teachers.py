"""Teachers: who knows which class, standardised logits and the mixture against numpy; pseudo-labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.ensembles.confidence import most_confident
from autofusion_jax.merging.ensembles.em import fit_mixture
from autofusion_jax.merging.ensembles.members import known_classes
from autofusion_jax.merging.ensembles.z import measure, standardised
from autofusion_jax.merging.teachers import TEACHERS, find_targets, real_labels, teacher_name
from tests.conftest import inputs_for, params_for
from tests.merging.tasks import blobs, task_of


def test_most_confident_by_hand():
    probs = jnp.array([[[0.6, 0.4], [0.2, 0.8]], [[0.3, 0.7], [0.5, 0.5]]])
    np.testing.assert_allclose(most_confident(probs), [[0.3, 0.7], [0.2, 0.8]])


def test_a_threshold_drops_what_is_not_sure(mlp):
    models, x = [params_for(mlp, 0), params_for(mlp, 1)], inputs_for(mlp)
    task = task_of(mlp, models, x)
    probs = most_confident(jax.nn.softmax(jnp.stack([mlp.apply(p, x) for p in models])))
    zeta = float(np.median(probs.max(-1)))
    targets = find_targets("test", task, pseudo_labels="confidence", zeta=zeta)
    np.testing.assert_allclose(targets.probs, probs, rtol=1e-5)
    np.testing.assert_array_equal(targets.keep, probs.max(-1) > zeta)
    with pytest.warns(UserWarning, match="zeta=0.9999 keeps 0.0%"):
        find_targets("test", task, pseudo_labels="confidence", zeta=0.9999)


def test_real_labels_are_one_hot():
    targets = real_labels(jnp.array([2, 0]), 3)
    assert targets.probs.tolist() == [[0, 0, 1], [1, 0, 0]] and targets.keep.tolist() == [1, 1]


def test_who_knows_what():
    """Two networks of disjoint classes, and a third that knows the first class as well as the first does."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 50, 4)).astype(np.float32)
    logits[0, :, :2] += 12
    logits[1, :, 2:] += 12
    logits[2, :, :1] += 12
    known = known_classes(jnp.asarray(logits))
    assert known.tolist() == [
        [True, True, False, False],
        [False, False, True, True],
        [True, False, False, False],
    ]


def test_standardised_logits_by_hand():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 60, 4)).astype(np.float32) * 3
    logits[0, :, :2] += 20
    logits[1, :, 2:] += 20
    standard = measure(jnp.asarray(logits))
    got = np.asarray(standardised(jnp.asarray(logits), standard).max(0))
    own = np.concatenate([logits[0, :, :2], logits[1, :, 2:]], -1)
    z = (own - own.mean(0)) / own.std(0)
    np.testing.assert_allclose(got, z * own.std(0).mean(), rtol=1e-3, atol=1e-4)


def mixture_in_numpy(features, labels, num_components, num_axes, rounds, ridge):
    """The same fit in float64, by the covariance's eigenvectors; returns log posteriors of the inputs."""
    blocks = []
    for f in features:
        f = np.asarray(f, np.float64)
        f = f - f.mean(0)
        blocks.append(f / np.sqrt((f**2).sum(1).mean()))
    joint = np.concatenate(blocks, 1)
    scores = joint @ np.linalg.eigh(joint.T @ joint)[1][:, ::-1][:, :num_axes]
    resp = np.eye(num_components)[labels]
    for _ in range(rounds):
        share, means = resp.mean(0), resp.T @ scores / resp.sum(0)[:, None]
        within = sum(
            resp[:, c, None, None] * np.einsum("ni,nj->nij", scores - m, scores - m)
            for c, m in enumerate(means)
        )
        cov = within.mean(0)
        cov += ridge * np.trace(cov) / len(cov) * np.eye(len(cov))
        logits = np.log(share) + np.stack(
            [-0.5 * np.einsum("ni,ij,nj->n", scores - m, np.linalg.inv(cov), scores - m) for m in means], -1
        )
        logits -= logits.max(-1, keepdims=True)
        resp = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return resp


@pytest.mark.parametrize("num_axes", [3, 100])
@pytest.mark.slow
def test_the_mixture_agrees_with_numpy(num_axes):
    rng = np.random.default_rng(2)
    labels = np.arange(90) % 3
    features = [rng.normal(size=(90, n)) * 0.7 + np.eye(3, n)[labels] * 2 + 5 for n in (6, 4)]
    noisy = np.where(rng.uniform(size=90) < 0.2, rng.integers(0, 3, 90), labels)
    expected = mixture_in_numpy(features, noisy, 3, min(num_axes, 10), 2, 0.01)
    arrays = [jnp.asarray(f, jnp.float32) for f in features]
    mixture = fit_mixture(arrays, jnp.asarray(noisy), 3, num_axes, 2, 0.01)
    got = jax.nn.softmax(jnp.concatenate(arrays, -1) @ mixture.kernel + mixture.bias)
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert (np.asarray(got).argmax(-1) == labels).mean() > (noisy == labels).mean()


def specialists(model):
    """Stand-ins for networks trained on classes {0} and {1, 2}: only those rows of the head are free."""

    def with_bias(seed, bias):
        params = params_for(model, seed)
        head = params["params"]["head"]
        return {"params": {**params["params"], "head": {**head, "bias": head["bias"] + jnp.asarray(bias)}}}

    return [with_bias(0, [20.0, -20, -20]), with_bias(1, [-20.0, 20, 20])]


@pytest.mark.parametrize("name", sorted(TEACHERS))
@pytest.mark.slow
def test_every_teacher_labels_and_answers_alike(name, mlp):
    """The pseudo-labels are the ensemble's own answers on the same inputs."""
    x, _ = blobs(3, 40, mlp.input_shape)
    models = specialists(mlp)
    targets = find_targets("test", task_of(mlp, models, x), pseudo_labels=name, zeta=0.0)
    ensemble = af.merge(*models, mlp.perm_spec, x, method=f"{name}_ensemble")
    answers = jax.nn.softmax(ensemble.apply_fn(ensemble.params, x))
    assert targets.probs.shape == (40, 3)
    np.testing.assert_allclose(targets.probs, answers, atol=1e-5)


def test_em_finds_the_classes_that_the_features_separate(mlp):
    """Random specialists are poor judges; their hidden units still tell the classes apart."""
    x, labels = blobs(3, 90, mlp.input_shape)
    models = specialists(mlp)
    start = np.asarray(labels).copy()
    start[::5] = (start[::5] + 1) % 3
    features = [mlp.features(params, x) for params in models]
    mixture = fit_mixture(features, jnp.asarray(start), 3, 10, 3, 0.01)
    got = (jnp.concatenate(features, -1) @ mixture.kernel + mixture.bias).argmax(-1)
    assert (np.asarray(got) == np.asarray(labels)).mean() > 0.97


@pytest.mark.slow
def test_networks_that_share_classes_add_up(mlp):
    """Two that know the same classes: two Gaussians for each, answers that sum to one."""
    x, _ = blobs(3, 40, mlp.input_shape)
    result = af.merge(params_for(mlp, 0), params_for(mlp, 0), mlp.perm_spec, x, method="em_ensemble")
    known = known_classes(mlp.apply(params_for(mlp, 0), x)[None]).sum()
    assert result.params["mixture"]["bias"].shape == (2 * known,)
    probs = np.exp(result.apply_fn(result.params, x))
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


def test_a_spec_without_sites(mlp):
    hand_written = af.PermSpec(mlp.perm_spec.leaves, mlp.perm_spec.groups, apply_fn=mlp.apply)
    with pytest.raises(ValueError, match="sites"):
        af.merge(params_for(mlp, 0), params_for(mlp, 1), hand_written, inputs_for(mlp), method="em_ensemble")


def test_em_is_z_where_it_cannot_work(mlp):
    x, _ = blobs(3, 40, mlp.input_shape)
    models = specialists(mlp)
    task = task_of(mlp, models, x)
    assert teacher_name("test", task, "em") == "em"
    assert teacher_name("test", task, "confidence") == "confidence"
    without_sites = dataclasses.replace(
        task, perm_spec=dataclasses.replace(task.require_perm_spec(), sites=())
    )
    assert teacher_name("test", without_sites, "em") == "z"
    got = find_targets("test", without_sites, pseudo_labels="em", zeta=0.0)
    expected = find_targets("test", task, pseudo_labels="z", zeta=0.0)
    np.testing.assert_array_equal(got.probs, expected.probs)
