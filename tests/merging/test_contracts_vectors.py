"""One table of contracts on task vectors: every method that needs a base, on vectors of no or any size."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import LEAF_BY_LEAF, METHODS, NEED_BASE, OTHER_PROGRAM, merged, slow_but

BY_LEAF = sorted(NEED_BASE & LEAF_BY_LEAF)
"""Methods that see nothing but the networks."""

FAST = {"sce", "task_arithmetic", "ties", "tsv"}
"""Those of them that the fast tests take; the slow ones take all."""

KEEPS = {
    "ties": {"density": 1.0},
    "breadcrumbs": {"density": 1.0},
    "dare": {"density": 1.0},
    "sce": {"density": 1.0},
}
"""Options under which a method that leaves out entries keeps them all."""

ABSOLUTE = {"wudi": "its learning rate is one of weights, whatever their size"}
"""Methods that look at the scale of networks, with the reason."""


def network(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(scale * rng.standard_normal((9, 6)), jnp.float32),
        "bias": jnp.asarray(scale * rng.standard_normal(6), jnp.float32),
    }


def moved(base, delta):
    return jax.tree.map(jnp.add, base, delta)


def vectors(base, params):
    """The task vector as one array of float64."""
    return np.concatenate([(np.float64(params[k]) - np.float64(base[k])).ravel() for k in sorted(base)])


def run(name, base, models, **options):
    return af.merge_many(models, None, None, base=base, method=name, **{**METHODS[name], **options}).params


def low_rank(seed, rank=2):
    """A task vector of a kernel whose singular values are one `rank` times, else zero; and of a bias."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, rank)))[0] for size in (9, 6))
    return {"kernel": jnp.asarray(left @ right.T, jnp.float32), "bias": jnp.ones(6)}


@pytest.mark.parametrize("name", slow_but(FAST, sorted(NEED_BASE - OTHER_PROGRAM)))
def test_no_change_is_the_base_bit_for_bit(name, mlp):
    base = params_for(mlp, 9)
    chex.assert_trees_all_equal(merged(name, mlp, [base, base, base], base=base).params, base)


@pytest.mark.parametrize("name", slow_but({"wemoe"}, sorted((NEED_BASE & OTHER_PROGRAM) - {"smile"})))
def test_no_change_is_the_function_of_the_base(name, mlp):
    """Which smile refuses: it makes experts of what was changed."""
    base, x = params_for(mlp, 9), inputs_for(mlp)
    result = merged(name, mlp, [base, base], base=base)
    outputs = result.apply_fn(result.params, x)
    expected = jnp.broadcast_to(mlp.apply(base, x), outputs.shape)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.parametrize("size", [1e-6, 1.0])
@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_beside_no_change_a_change_stays_in_its_span(name, size):
    """No singular vector of a zero, which is arbitrary, gets a weight."""
    base = jax.tree.map(jnp.zeros_like, network(0))
    delta = jax.tree.map(lambda leaf: size * leaf, low_rank(1))
    for options in ({}, KEEPS.get(name, {})):
        for models in ([base, delta], [delta, base], [base, delta, base]):
            got = run(name, base, models, **options)
            chex.assert_tree_all_finite(got)
            assert np.linalg.norm(vectors(base, got)) <= 1.5 * np.linalg.norm(vectors(base, delta))
    left, _, right = np.linalg.svd(np.float64(delta["kernel"]) / size)
    inside = left[:, :2] @ left[:, :2].T @ np.float64(got["kernel"]) @ right[:2].T @ right[:2]
    np.testing.assert_allclose(got["kernel"], inside, atol=1e-5 * size)


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_identical_changes_keep_their_direction(name, num):
    """Two singular values of six, both alike: methods that cut or level them leave them as they are."""
    base, delta = network(0), low_rank(1)
    got = run(name, base, [moved(base, delta)] * num, **KEEPS.get(name, {}))
    for leaf in base:
        change, expected = np.float64(got[leaf] - base[leaf]).ravel(), np.float64(delta[leaf]).ravel()
        assert change @ expected >= 0.99 * np.linalg.norm(change) * np.linalg.norm(expected) > 0


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40, 1e-12, 1e12])
@pytest.mark.parametrize("name", slow_but(FAST, [name for name in BY_LEAF if name not in ABSOLUTE]))
def test_the_scale_of_networks_decides_nothing(name, factor):
    """Also not of what they changed: the base is zero in half of all."""
    for origin in (network(0), jax.tree.map(jnp.zeros_like, network(0))):
        models = [moved(origin, network(seed, 1e-2)) for seed in (1, 2, 3)]
        scaled = [jax.tree.map(lambda leaf: leaf * factor, params) for params in (origin, *models)]
        expected, got = run(name, origin, models), run(name, scaled[0], scaled[1:])
        for leaf, value in expected.items():
            np.testing.assert_allclose(np.float64(got[leaf]) / factor, value, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_opposite_changes_do_not_make_noise(name):
    """What cancels but for rounding is not told from what cancels: nothing as large as a change is added."""
    base, delta = jax.tree.map(jnp.zeros_like, network(0)), network(1)
    opposite = jax.tree.map(lambda leaf: -leaf * (1 + 2e-7), delta)
    got = run(name, base, [delta, opposite], **KEEPS.get(name, {}))
    chex.assert_tree_all_finite(got)
    limit = 1.5 if name in ("magmax", "ties", "sce", "tsv") else 1e-5  # of one network each
    assert np.linalg.norm(vectors(base, got)) <= limit * np.linalg.norm(vectors(base, delta))


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_complex_numbers_without_imaginary_parts_are_as_real_ones(name):
    base, *models = (network(seed) for seed in range(4))
    real = run(name, base, models)
    cast = [jax.tree.map(lambda leaf: leaf.astype(jnp.complex64), params) for params in (base, *models)]
    got = run(name, cast[0], cast[1:])
    for leaf, value in real.items():
        np.testing.assert_allclose(got[leaf], value, atol=2e-5)


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_leaves_of_no_rows_and_networks_without_floats(name):
    base = {
        "empty": jnp.zeros((0, 5)),
        "none": jnp.zeros((4, 0)),
        "one": jnp.ones((1, 1)),
        "scalar": jnp.ones(()),
    }
    params = {**base, "one": jnp.full((1, 1), 3.0), "scalar": jnp.full((), 3.0)}
    got = run(name, base, [params, params], **KEEPS.get(name, {}))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, base)
    assert got["one"].item() > 1 and got["scalar"].item() > 1
    counts = {"step": np.array(2**40 + 1), "flag": np.array(True)}
    chex.assert_trees_all_equal(run(name, counts, [counts, counts]), counts)


@pytest.mark.parametrize("name", slow_but(FAST, BY_LEAF))
def test_differences_of_the_largest_numbers_fit_where_the_result_does(name):
    """Networks at opposite ends: what they changed is larger than any float, the merged ones are not."""
    base = {"w": jnp.full((4, 4), 3e38), "b": jnp.full(3, -3e38)}
    other = {"w": jnp.full((4, 4), -3e38), "b": jnp.full(3, 3e38)}
    options = {**KEEPS.get(name, {}), **({"scale": 0.4} if name == "wudi" else {})}
    chex.assert_tree_all_finite(run(name, base, [base, other], **options))


F = af.functional
BASE, TUNED = network(0), [network(1), network(2)]
MASK = jax.tree.map(lambda leaf: leaf > 0, BASE)
FORMULAS = {
    "add_task_vectors": lambda one: F.add_task_vectors(BASE, TUNED, one),
    "add_largest": lambda one: F.add_largest(BASE, TUNED, one),
    "add_consensus": lambda one: F.add_consensus(BASE, TUNED, one, one, one),
    "add_isotropic": lambda one: F.add_isotropic(BASE, TUNED, one),
    "add_common_and_specific": lambda one: F.add_common_and_specific(BASE, TUNED, one),
    "add_decorrelated": lambda one: F.add_decorrelated(BASE, TUNED, one),
    "add_undisturbed": lambda one: F.add_undisturbed(BASE, TUNED, one, one, num_steps=2),
    "drop_and_rescale": lambda one: F.drop_and_rescale(BASE, TUNED[0], MASK, one),
    "elect_and_merge": lambda one: F.elect_and_merge([p["bias"] for p in TUNED], jnp.ones(2), one, one),
    "weight_ensemble": lambda one: F.weight_ensemble(BASE, TUNED, one, blocks="kernel"),
    "weighted_sum": lambda one: F.weighted_sum(TUNED, [one, one - one]),
    "interpolate_on_sphere": lambda one: F.interpolate_on_sphere(*TUNED, one),
    "mean_on_sphere": lambda one: F.mean_on_sphere(BASE, TUNED, [one, one]),
}


@pytest.mark.parametrize("name", slow_but({"add_task_vectors", "elect_and_merge"}, FORMULAS))
def test_formulas_take_numbers_of_any_kind(name):
    expected = FORMULAS[name](1.0)
    for one in (1, np.float32(1), np.float64(1), np.int64(1), jnp.ones(())):
        chex.assert_trees_all_close(FORMULAS[name](one), expected, rtol=1e-6)
