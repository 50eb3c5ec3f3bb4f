"""PWE-MoE against FusionBench; its sweep, what it learns; exact Pareto search against scipy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import autofusion_jax as af
from autofusion_jax.merging.mixtures.pareto import at_preference, pareto_apply, simplex_program, task_weights
from tests.conftest import fine_tuned, inputs_for, oracle, params_for
from tests.merging.fusionbench import fusionbench_networks

GRID = jnp.array([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])


def merged(model, x, **options):
    base, models = fine_tuned(model)
    method = af.methods.pareto(**{"num_steps": 5, **options})
    return af.merge_many(models, model.perm_spec, x, base=base, method=method)


def test_one_module_at_one_preference_is_the_reference():
    """The reference's module: fc1, exact GELU, and the first eight units of fc2 as its second layer."""
    stored = oracle("fusionbench/fb_pwemoe_h1.npz")
    base, *models = (
        {
            "fc1.weight": params["fc1.weight"], "fc1.bias": params["fc1.bias"],
            "out.weight": params["fc2.weight"][:8], "out.bias": params["fc2.bias"][:8],
        }
        for params in (fusionbench_networks()[0], *fusionbench_networks()[1])
    )  # fmt: skip

    def apply_fn(params, x):
        h = jax.nn.gelu(x @ params["fc1.weight"].T + params["fc1.bias"], approximate=False)
        return h @ params["out.weight"].T + params["out.bias"]

    gate = {"kernel": jnp.asarray(stored["gate/0.weight"].T[None]), "bias": stored["gate/0.bias"][None]}
    params = {
        "base": base,
        "models": jax.tree.map(lambda *leaves: jnp.stack(leaves), *models),
        "gates": {"out": gate},
        "preference": jnp.asarray(stored["ray"]),
    }
    for path, leaf in at_preference(params).items():
        np.testing.assert_allclose(leaf, stored[f"merged/{path}"], rtol=0, atol=1e-5)
    x = jnp.asarray(oracle("fusionbench/inputs.npz")["x"])
    np.testing.assert_allclose(pareto_apply(apply_fn)(params, x), stored["out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.slow
def test_one_vmap_sweeps_the_preference(mlp, depth):
    x = inputs_for(mlp)
    result = merged(mlp, x, depth=depth, preference=[3, 1])
    np.testing.assert_allclose(result.params["preference"], [0.75, 0.25])
    assert ("hidden" in result.params["gates"]) == (depth == 2)
    sweep = jax.jit(jax.vmap(lambda ray: result.apply_fn({**result.params, "preference": ray}, x)))(GRID)
    for ray, outputs in zip(GRID, sweep):
        params = at_preference({**result.params, "preference": ray})
        chex.assert_trees_all_equal_shapes_and_dtypes(params, params_for(mlp, 0))
        np.testing.assert_allclose(mlp.apply(params, x), outputs, atol=1e-5)


def test_every_module_has_a_gate_of_its_own(mlp):
    """What the gate of one module says moves its own leaves, and no others."""
    result = merged(mlp, inputs_for(mlp))
    gates = result.params["gates"]
    bias = gates["out"]["bias"]
    assert bias.shape == (3, 2)
    other = {**gates, "out": {**gates["out"], "bias": bias.at[1].add(1.0)}}
    before, after = (at_preference({**result.params, "gates": g})["params"] for g in (gates, other))
    moved = [
        name
        for name in before
        for leaf in before[name]
        if not np.allclose(before[name][leaf], after[name][leaf])
    ]
    assert moved == [list(before)[1]] * 2


@pytest.mark.parametrize("variant", ["ls", "epo"])
@pytest.mark.slow
def test_a_task_that_is_preferred_has_a_smaller_loss(mlp, variant):
    """With labels of two contradicting tasks: the more a task counts, the smaller its loss."""
    x = inputs_for(mlp, 48)
    labels = [jnp.zeros(48, int), jnp.ones(48, int)]
    result = merged(
        mlp, x, variant=variant, inputs=[(x, y) for y in labels], num_steps=400, learning_rate=0.02
    )

    def losses(ray):
        logs = jax.nn.log_softmax(result.apply_fn({**result.params, "preference": ray}, x))
        return jnp.stack([-logs[:, y].mean() for y in range(2)])

    found = jax.vmap(losses)(GRID[1:-1])
    assert (jnp.diff(found[:, 0]) > 0.1).all() and (jnp.diff(found[:, 1]) < -0.1).all()
    assert result.history["losses"].shape == (400, 2)


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.slow
def test_linear_programs_on_the_simplex(num):
    """Against scipy's exact ones, of the form in which they arise, where any rule may be left out."""
    rng = np.random.default_rng(num)
    for _ in range(20):
        grads = rng.normal(size=(num, 6)) * np.exp(rng.normal(size=(num, 1)))
        rows = grads @ grads.T
        gain, bounds = rows @ rng.normal(size=num), np.minimum(rows @ rng.normal(size=num), 0)
        watched = rng.random(num) < 0.8
        watched[0] = True
        exact = linprog(-gain, -rows[watched], -bounds[watched], np.ones((1, num)), [1], bounds=(0, None))
        arrays = (jnp.asarray(a, jnp.float32) for a in (gain, rows, bounds))
        weights = np.asarray(simplex_program(*arrays, jnp.asarray(watched)))
        np.testing.assert_allclose(weights.sum(), 1, atol=1e-5)
        assert weights.min() >= 0
        broken = ((bounds - rows @ weights) / np.linalg.norm(rows, axis=1))[watched].max()
        assert broken < 1e-2
        assert abs(gain @ weights + exact.fun) < 1e-2 * np.linalg.norm(gain)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.slow
def test_weights_of_the_exact_search(balanced):
    """Against the definition in float64, solved by scipy: the same value of what is maximised."""
    rng = np.random.default_rng(7)
    for number in range(20):
        grads, ray = rng.normal(size=(3, 5)), rng.dirichlet(np.ones(3)) + 0.05
        nearly = (1 + 0.005 * (number % 2) * rng.normal(size=3)) / ray
        losses = nearly if balanced else rng.uniform(0.1, 2, 3)
        products, weighted = grads @ grads.T, ray * losses
        share = weighted / weighted.sum()
        divergence = (share * np.log(3 * share)).sum()
        pull = products @ (ray * (np.log(3 * share) - divergence))
        if balanced:
            gain = products.sum(0)
            rows = np.vstack([products, pull])
            bounds = np.append(np.zeros(3), min(pull.max(), 0))
        else:
            falls = np.flatnonzero(pull > 0)
            bounds = pull.copy() if len(falls) else np.zeros(3)
            bounds[falls] = -1e9
            bounds[weighted.argmax()] = 0
            gain, rows = pull, products
        exact = linprog(-gain, -rows, -bounds, np.ones((1, 3)), [1], bounds=(0, None))
        arrays = (jnp.asarray(a, jnp.float32) for a in (losses, products, ray))
        assert abs(gain @ np.asarray(task_weights(*arrays)) + exact.fun) < 1e-2 * np.linalg.norm(gain)


@pytest.mark.slow
def test_exact_search_ends_where_the_preference_says():
    """Two quadratic losses: descending by its weights ends with equal r * loss on the Pareto front."""
    centres = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    ray = jnp.array([0.8, 0.2])

    def losses(point):
        return ((point - centres) ** 2).sum(1)

    def step(point, _):
        grads = jax.jacobian(losses)(point)
        return point - 0.02 * task_weights(losses(point), grads @ grads.T, ray) @ grads, None

    point, _ = jax.lax.scan(step, jnp.array([0.7, 0.9]), length=1500)
    weighted = ray * losses(point)
    np.testing.assert_allclose(weighted[0], weighted[1], rtol=0.1)
    np.testing.assert_allclose(point[1], 0, atol=0.05)


@pytest.mark.slow
def test_it_is_saved_and_loaded(model, tmp_path):
    x = inputs_for(model)
    result = merged(model, x[:7])
    af.save(tmp_path / "pareto", result.params)
    params = af.load(tmp_path / "pareto").params
    chex.assert_trees_all_equal(params, jax.tree.map(np.asarray, result.params))
    outputs = jax.jit(pareto_apply(model.apply))(params, x)
    np.testing.assert_array_equal(outputs, jax.jit(result.apply_fn)(result.params, x))
    assert result.diagnostics["num_params"] == sum(np.size(leaf) for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_what_does_not_fit_the_networks_and_losses_that_cannot_be(mlp):
    for options, message in [
        ({"preference": [0.5, 0.2, 0.3]}, "preference must be 2 numbers, one for each network"),
        ({"inputs": [jnp.zeros((2, 4, 4))]}, "inputs must be 2 batches, one for each network; got 1"),
        ({"learning_rate": 1e38}, "pareto: the losses must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            merged(mlp, inputs_for(mlp), **options)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12])
def test_weights_of_tasks_do_not_depend_on_the_size_of_losses_and_gradients(size):
    losses, preference = jnp.array([4.0, 1.0, 2.0]), jnp.array([0.2, 0.3, 0.5])
    products = jnp.array([[2.0, -1.0, 0.5], [-1.0, 3.0, 0.0], [0.5, 0.0, 1.0]])
    expected = task_weights(losses, products, preference)
    np.testing.assert_allclose(task_weights(size * losses, products, preference), expected, atol=1e-4)
    np.testing.assert_allclose(task_weights(losses, size * products, preference), expected, atol=1e-4)
    assert np.isfinite(task_weights(0 * losses, 0 * products, preference)).all()
