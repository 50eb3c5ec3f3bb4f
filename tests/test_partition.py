"""Leaves that are no numbers, in every public function that takes a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.batching import predict
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.activation_maps import gradient_x_input
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.evaluation.landscape import loss_landscape
from autofusion_jax.evaluation.similarity import network_similarity, task_vector_cosines
from autofusion_jax.partition import Rest, split
from tests.merging.test_contracts_structure import X, apply_fn, in_other_containers, network

LABELS, TASKS = np.arange(24) % 6, [[0, 1, 2], [3, 4, 5]]


@pytest.fixture(scope="module")
def spec():
    return af.infer_perm_spec(apply_fn, network(0), X)


def is_whole(params, other):
    """The floats of some network, and the rest of another one."""
    assert jax.tree.structure(params) == jax.tree.structure(other)
    for name, leaf in other["extra"].items():
        own = params["extra"][name]
        assert own is leaf or np.all(own == leaf)


def test_a_bound_function_is_equal_by_value():
    """Keys by their bits, words by their letters; what cannot be compared, by identity."""
    first, again, other = (split(network(seed))[1] for seed in (0, 0, 1))
    assert first == again and hash(first) == hash(again) and first != other
    assert first.bind(apply_fn) == again.bind(apply_fn) != other.bind(apply_fn)
    words = [split({"w": 1.0, "words": np.array(text)})[1] for text in (["a", "b"], ["a", "b"], ["a", "c"])]
    assert words[0] == words[1] and words[0] != words[2]
    things = [split({"w": 1.0, "thing": thing})[1] for thing in ({1}, {1}, True, "1")]
    assert things[0] != things[1] and things[2] == Rest()
    assert split({"w": 1.0, "n": 2**70})[1].paths == ("n",)


def test_networks_of_numbers_stay_the_objects_that_they_are():
    params = {"w": jnp.ones(2), "n": 3}
    numbers, rest = split(params)
    assert numbers is params and rest.bind(apply_fn) is apply_fn and rest.join(numbers) is params


def test_shapes_stand_for_random_keys():
    params = {"w": jnp.eye(3), "down": jnp.ones((3, 2)), "key": jax.random.key(0)}
    run = lambda p, x: jnp.tanh(x @ p["w"]) @ p["down"] * jax.random.uniform(p["key"])  # noqa: E731
    x = jnp.ones((2, 3))
    shapes = jax.eval_shape(lambda: params)
    assert af.infer_perm_spec(run, shapes, x, check=False) == af.infer_perm_spec(run, params, x)


def test_permutations(spec):
    params = network(0)
    perms = af.random_perms(spec, jax.random.key(1))
    moved = af.apply_perm(spec, params, perms)
    is_whole(moved, params)
    np.testing.assert_allclose(apply_fn(moved, X), apply_fn(params, X), atol=1e-5)
    assert af.check_perm_spec(spec, params, X) < 1e-4
    donated = af.apply_perm(spec, network(0), perms, donate=True)
    is_whole(donated, network(0))
    np.testing.assert_array_equal(donated["embedding"], moved["embedding"])
    assert {leaf.path for leaf in spec.leaves}.isdisjoint({"extra/key", "extra/act"})


def test_fusing(spec):
    a, b = network(0), network(1)
    perms = af.random_perms(spec, jax.random.key(1))
    fused = af.fuse(a, in_other_containers(b), perms, 0.5, spec)
    is_whole(fused, a)
    expected = af.fused_apply(spec, a, b, perms, 0.5, X)
    np.testing.assert_allclose(apply_fn(fused, X), expected, atol=1e-5)
    gammas = jnp.array([0.0, 0.5])
    swept = jax.vmap(lambda gamma: af.fused_apply(spec, a, b, perms, gamma, X))(gammas)
    np.testing.assert_allclose(swept[1], expected, atol=1e-4)


def test_activations(spec):
    values = af.capture_sites(spec, network(0), X)
    assert values and all(np.isfinite(value).all() for value in values.values())
    found = af.moments(spec, [network(0), network(1)], [X[:10], X[10:]])
    assert found.keys() == values.keys()


def test_evaluation(spec):
    a, b = network(0), network(1)
    np.testing.assert_allclose(predict(apply_fn, a, X), apply_fn(a, X), atol=1e-5)
    perms = af.identity_perms(spec)
    curve = interpolation_curve(
        apply_fn, spec, a, in_other_containers(b), perms, jnp.array([0.0, 1.0]), X, LABELS, TASKS
    )
    own = evaluate(apply_fn, a, X, LABELS, TASKS)
    assert float(curve["joint"][1]) == own["joint"]
    cosines = task_vector_cosines(network(9), [a, in_other_containers(b)])
    np.testing.assert_allclose(np.diag(cosines), 1)


@pytest.mark.slow
def test_evaluation_that_takes_longer(spec):
    networks = [network(0), in_other_containers(network(1)), network(2)]
    plane = loss_landscape(apply_fn, networks, X, LABELS, TASKS, points=2)
    assert np.isfinite(plane.losses["average"]).all()
    similar = network_similarity(spec, networks[::2], [X])
    assert similar
    heat = gradient_x_input(apply_fn, networks[0], X, LABELS)
    assert heat.shape[0] == len(X)
