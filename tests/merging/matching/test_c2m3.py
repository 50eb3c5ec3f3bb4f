import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.matching.c2m3 import (
    best_permutations,
    best_step,
    evaluate,
    make_problem,
    move,
    nodes_of,
    objective_along,
    products_along,
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
    spec, problem, square = make_problem(spec, models, 0)
    soft = start_at_identity(spec, 3)
    point = evaluate(spec, problem, soft)
    np.testing.assert_allclose(square * point.objective, stored["objective_identity"], rtol=1e-5)
    for number, (step, objective) in enumerate(zip(stored["step_sizes"], stored["obj_values"])):
        perms = best_permutations(point.gradient)
        if number < 10:  # from there on nothing is left to gain
            products = products_along(spec, problem, point.moved, soft, perms)
            ours = best_step(nodes_of(spec), *map(np.float64, products))
            assert abs(ours - step) < 1e-3 or (ours == 1 and step > 0.99)
        soft = move(soft, perms, step)
        point = evaluate(spec, problem, soft)
        np.testing.assert_allclose(square * point.objective, objective, rtol=2e-6)


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


@pytest.mark.parametrize(("name", "num_fixed"), [("attention", 0), ("concat", 1)])
@pytest.mark.slow
def test_objective_on_the_way_is_the_polynomial(name, num_fixed):
    """Nested groups and concatenated axes included, at places that are no nodes."""
    spec, params, _ = CASES[name]
    models = [jax.tree.map(lambda v, i=i: v + jnp.sin(i * v), params) for i in range(3)]
    spec, problem, _ = make_problem(spec, models, num_fixed)
    soft = start_at_identity(spec, 3 - num_fixed)
    soft = {g: 0.7 * matrix + 0.3 / matrix.shape[-1] for g, matrix in soft.items()}
    point, nodes = evaluate(spec, problem, soft), nodes_of(spec)
    assert len(nodes) == {"attention": 3, "concat": 2}[name]
    perms = {g: jnp.roll(perm, 1, axis=-1) for g, perm in best_permutations(point.gradient).items()}
    products = products_along(spec, problem, point.moved, soft, perms)
    steps = np.array([0.0, 0.3, 0.8, 1.0])
    predicted = objective_along(nodes, *map(np.float64, products), steps)
    for step, value in zip(steps, predicted):
        there = move(soft, perms, step)
        networks = list(models)
        for number in range(num_fixed, 3):
            own = {group: matrix[number - num_fixed] for group, matrix in there.items()}
            networks[number] = af.apply_soft(spec, models[number], own)
        pairs = [jax.tree.map(jnp.vdot, *pair) for pair in itertools.combinations(networks, 2)]
        total = sum(map(float, jax.tree.leaves(pairs)))
        np.testing.assert_allclose(value, total, rtol=1e-4)


@pytest.mark.parametrize("name", ["attention", "concat"])
@pytest.mark.slow
def test_copies_are_found_in_nested_and_concatenated_groups(name):
    """Two of them, for any key; three can stall on symmetric points (docs/papers/rebasin-and-others.md)."""
    spec, params, x = CASES[name]
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(0)))
    result = af.merge(params, copy, spec, None, method="c2m3")
    np.testing.assert_allclose(spec.apply_fn(result.params, x), spec.apply_fn(params, x), atol=1e-4)


def test_two_networks_are_matched_to_the_first(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    result = af.merge(a, b, mlp.perm_spec, None, method="c2m3")
    chex.assert_trees_all_equal(dict(result.alignments[0]), af.identity_perms(mlp.perm_spec))
    chex.assert_trees_all_equal(result.perms, result.alignments[1])
    chex.assert_trees_all_close(result.params, af.fuse(a, b, result.perms, 0.5, mlp.perm_spec), atol=1e-6)


@pytest.mark.slow
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
    nodes, grid = np.array([0, 0.5, 1]), np.linspace(0, 1, 10_001)
    for _ in range(20):
        products = rng.normal(size=3), rng.normal(size=(3, 3))
        step = best_step(nodes, *products)
        assert 0 <= step <= 1
        best = objective_along(nodes, *products, grid).max()
        assert objective_along(nodes, *products, np.array([step]))[0] >= best - 1e-9
