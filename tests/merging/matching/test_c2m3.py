import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.matching.c2m3 import (
    best_permutations,
    best_step,
    move,
    objective_along,
    objective_and_gradient,
    polynomial_degree,
    stack_models,
    start_at_identity,
)
from tests.conftest import inputs_for, oracle, oracle_network, params_for
from tests.symmetry.test_transform import CASES

LAYERS = range(3)


@pytest.fixture(scope="module")
def recorded():
    """The reference's run on three networks: torch layout, `[out, in]`."""
    stored = oracle("c2m3_3way_mlp_planted.npz")
    models = [oracle_network(stored, name) for name in "abc"]
    table = {}
    for layer in LAYERS:
        out = af.out_axis(f"P_{layer}") if layer < 2 else None
        table[f"layer{layer}.weight"] = (out, af.in_axis(f"P_{layer - 1}") if layer else None)
        table[f"layer{layer}.bias"] = (out,)
    return stored, models, af.PermSpec.from_table(table, models[0])


def test_replays_the_reference(recorded):
    """Its step sizes give its objectives; ours are its own, to the tolerance of its line search."""
    stored, models, spec = recorded
    stacked, soft = stack_models(models), start_at_identity(spec, 3)
    nodes = np.linspace(0, 1, polynomial_degree(spec) + 1)
    value, gradient = objective_and_gradient(spec, stacked, soft)
    np.testing.assert_allclose(value, stored["objective_identity"], rtol=1e-5)
    for number, (step, objective) in enumerate(zip(stored["step_sizes"], stored["obj_values"])):
        vertices = best_permutations(spec, gradient)
        values = objective_along(spec, stacked, soft, vertices, jnp.asarray(nodes, jnp.float32))
        if number < 10:  # from there on nothing is left to gain
            ours = best_step(nodes, np.asarray(values, np.float64))
            assert abs(ours - step) < 1e-3 or (ours == 1 and step > 0.99)
        soft = move(soft, vertices, step)
        value, gradient = objective_and_gradient(spec, stacked, soft)
        np.testing.assert_allclose(value, objective, rtol=2e-6)


def test_ends_where_the_reference_does(recorded):
    stored, models, spec = recorded
    result = af.merge_many(models, spec, None, method="c2m3")
    np.testing.assert_allclose(result.diagnostics["objective"], stored["objective_hard"], rtol=2e-6)
    assert result.diagnostics["converged"] and result.diagnostics["iterations"] < len(stored["step_sizes"])
    universe = [af.apply_perm(spec, p, perms) for p, perms in zip(models, result.alignments)]
    for name, network, perms in zip("abc", universe, result.alignments):
        chex.assert_trees_all_equal(network, oracle_network(stored, f"univ:{name}"))
        for group in spec.groups:  # recorded the other way round: from the universe to the network
            np.testing.assert_array_equal(np.argsort(perms[group]), stored[f"perm:{name}:{group}"])
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *universe)
    chex.assert_trees_all_close(result.params, mean, atol=1e-6)
    assert result.weights == (1 / 3,) * 3 and result.perms == {}
    assert np.all(np.diff(result.history["objective"]) >= -1e-3)


def test_maps_between_networks_are_consistent_over_cycles(recorded):
    _, models, spec = recorded
    first, second, third = af.merge_many(models, spec, None, method="c2m3").alignments

    def between(p, q):
        return af.compose(spec, af.invert(spec, p), q)

    there = af.compose(spec, between(first, second), between(second, third))
    chex.assert_trees_all_equal(there, between(first, third))


@pytest.mark.parametrize("name", ["attention", "concat"])
def test_objective_on_the_way_is_the_polynomial(name):
    """Nested groups and concatenated axes included; a value beside the nodes is predicted."""
    spec, params, _ = CASES[name]
    models = [jax.tree.map(lambda v, i=i: v + jnp.sin(i * v), params) for i in range(3)]
    stacked, soft = stack_models(models), start_at_identity(spec, 3)
    degree = polynomial_degree(spec)
    assert degree == {"attention": 4, "concat": 2}[name]
    _, gradient = objective_and_gradient(spec, stacked, soft)
    rolled = {group: jnp.roll(matrix, 1, axis=-1) for group, matrix in soft.items()}
    vertices = {g: m.at[0].set(rolled[g][0]) for g, m in best_permutations(spec, gradient).items()}
    steps = np.linspace(0, 1, degree + 1)
    values = objective_along(spec, stacked, soft, vertices, jnp.asarray([*steps, 0.3], jnp.float32))
    fitted = np.polynomial.Polynomial.fit(steps, np.asarray(values[:-1], np.float64), degree)
    np.testing.assert_allclose(fitted(0.3), values[-1], rtol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("attention", 3), ("concat", 2)])
def test_copies_are_found_in_nested_and_concatenated_groups(name, count):
    spec, params, x = CASES[name]
    keys = jax.random.split(jax.random.key(3), count - 1)
    models = [params, *(af.apply_perm(spec, params, af.random_perms(spec, key)) for key in keys)]
    result = af.merge_many(models, spec, None, method="c2m3")
    np.testing.assert_allclose(spec.apply_fn(result.params, x), spec.apply_fn(params, x), atol=1e-4)


def test_two_networks_are_matched_to_the_first(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    result = af.merge(a, b, mlp.perm_spec, None, method="c2m3")
    chex.assert_trees_all_equal(dict(result.alignments[0]), af.identity_perms(mlp.perm_spec))
    chex.assert_trees_all_equal(result.perms, result.alignments[1])
    chex.assert_trees_all_close(result.params, af.fuse(a, b, result.perms, 0.5, mlp.perm_spec), atol=1e-6)


def test_random_starts_depend_on_the_key(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(0), 2)
    results = af.merge_repeats(
        models, mlp.perm_spec, inputs_for(mlp), keys=keys, method="c2m3", start="random"
    )
    assert results[0].diagnostics["objective"] != results[1].diagnostics["objective"]
    for result in results:
        for perms in result.alignments:
            np.testing.assert_array_equal(np.sort(perms["dense_0"]), np.arange(12))


def test_best_step_is_the_best_of_a_fine_grid():
    rng = np.random.default_rng(0)
    nodes, grid = np.linspace(0, 1, 5), np.linspace(0, 1, 10_001)
    for _ in range(20):
        polynomial = np.polynomial.Polynomial(rng.normal(size=5))
        step = best_step(nodes, polynomial(nodes))
        assert 0 <= step <= 1
        assert polynomial(step) >= polynomial(grid).max() - 1e-9


def test_bad_options():
    with pytest.raises(ValueError, match="c2m3: unknown start 'identiy'. Did you mean 'identity'"):
        af.methods.c2m3(start="identiy")
    with pytest.raises(ValueError, match="max_iters must be >= 1"):
        af.methods.c2m3(max_iters=0)
