"""Contracts of every method: one to five inputs, constant ones, dead and single units, half precision."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.gradients import WITHOUT_GRADIENTS
from autofusion_jax.models.registry import build_model
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import (
    ALIGNED,
    LEARNED,
    METHODS,
    MOVES,
    NOT_ITSELF,
    OTHER_PROGRAM,
    options_for,
    slow_but,
)

RESTORES = sorted(set(MOVES) - set(NOT_ITSELF) - OTHER_PROGRAM - {"interpolation"})
"""Methods that bring a permuted copy back to the network that it is a copy of."""

BY_ACTIVATIONS = {
    "activation_matching": {},
    "mudsc": {},
    "ot_fusion": {"ground": "activations"},
    "pleas": {"matching": "activation_matching"},
    "weight_matching": {"start": "activation"},
    "zipit": {},
}
"""Methods that compare activations, with the options under which they do."""

SINGLE = build_model("mlp", (4, 4), widths=(1, 5), num_classes=3)
MANY_UNITS = build_model("mlp", (4, 4), widths=(32, 24), num_classes=3)


def expect_finite(result, name, model, params, x):
    chex.assert_tree_all_finite(result.params)
    chex.assert_tree_all_finite(result.apply_fn(result.params, x))
    if name not in OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, params)


def merge_on(name, model, models, x, **more):
    options = {**options_for(name, model), **more}
    return af.merge_many(models, model.perm_spec, x, method=name, **options)


def expect_restored(result, model, params):
    """The network's function on inputs that the merge has not seen."""
    x = inputs_for(model, 32, seed=77)
    got = result.apply_fn(result.variants.get("hard", result.params), x)
    np.testing.assert_allclose(got, model.apply(params, x), rtol=1e-3, atol=1e-3)


def permuted(model, params, seed=4):
    return af.apply_perm(model.perm_spec, params, af.random_perms(model.perm_spec, jax.random.key(seed)))


@pytest.mark.filterwarnings("ignore:.*zeta=")
@pytest.mark.parametrize("num", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3, 5))])
@pytest.mark.parametrize("name", slow_but({"activation_matching", "em_ensemble", "regmean"}, METHODS))
def test_few_inputs_give_finite_networks(name, num, mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    x = inputs_for(mlp, num)
    expect_finite(merge_on(name, mlp, models, x), name, mlp, models[0], x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*zeta=")
@pytest.mark.parametrize("name", METHODS)
def test_constant_inputs_a_dead_layer_and_a_single_unit(name, mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    x = jnp.ones_like(inputs_for(mlp, 4))
    expect_finite(merge_on(name, mlp, models, x), name, mlp, models[0], x)
    for params in models:
        params["params"]["dense_0"]["bias"] = params["params"]["dense_0"]["bias"] - 99
    x = inputs_for(mlp, 8)
    expect_finite(merge_on(name, mlp, models, x), name, mlp, models[0], x)
    models = [params_for(SINGLE, 0), params_for(SINGLE, 1)]
    expect_finite(merge_on(name, SINGLE, models, x), name, SINGLE, models[0], x)


@pytest.mark.parametrize("num", [1, 2, 3, 4])
@pytest.mark.parametrize("name", slow_but({"activation_matching", "zipit"}, BY_ACTIVATIONS))
def test_activations_of_few_inputs_find_a_permuted_copy(name, num):
    """At 2 inputs all correlations are 1 or -1, at 1 there are none."""
    params = params_for(MANY_UNITS, 0)
    x = inputs_for(MANY_UNITS, num)
    copy = permuted(MANY_UNITS, params)
    expect_restored(merge_on(name, MANY_UNITS, [params, copy], x, **BY_ACTIVATIONS[name]), MANY_UNITS, params)


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2, 4])
@pytest.mark.parametrize("name", BY_ACTIVATIONS)
def test_activations_of_few_images_find_a_permuted_copy(name, num, vgg):
    params, x = params_for(vgg, 0), inputs_for(vgg, num)
    copy = permuted(vgg, params)
    expect_restored(merge_on(name, vgg, [params, copy], x, **BY_ACTIVATIONS[name]), vgg, params)


@pytest.mark.parametrize("kind", ["covariance", "second_moment", "correlation"])
@pytest.mark.parametrize("position", ["read", "pre"])
@pytest.mark.slow
def test_every_kind_of_similarity_finds_a_permuted_copy(kind, position):
    params = params_for(MANY_UNITS, 0)
    copy, x = permuted(MANY_UNITS, params), inputs_for(MANY_UNITS, 1)
    options = {"kind": kind, "position": position}
    result = merge_on("activation_matching", MANY_UNITS, [params, copy], x, **options)
    expect_restored(result, MANY_UNITS, params)


@pytest.mark.parametrize("name", slow_but({"activation_matching"}, RESTORES))
def test_four_inputs_are_enough_for_a_permuted_copy(name, mlp):
    params = params_for(mlp, 0)
    options = ALIGNED if name in LEARNED else {}
    result = merge_on(name, mlp, [params, permuted(mlp, params)], inputs_for(mlp, 4), **options)
    expect_restored(result, mlp, params)


@pytest.mark.parametrize("name", slow_but({"activation_matching"}, RESTORES))
def test_units_that_never_fire_are_told_apart(name, mlp):
    """By what stands before the nonlinearity and by their weights: elsewhere they do fire."""
    params = params_for(mlp, 0)
    params["params"]["dense_0"]["bias"] = params["params"]["dense_0"]["bias"].at[:5].add(-4)
    x = 0.2 * inputs_for(mlp, 16)
    options = ALIGNED if name in LEARNED else {}
    result = merge_on(name, mlp, [params, permuted(mlp, params)], x, **options)
    expect_restored(result, mlp, params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["activation_matching", "zipit", "mudsc"])
def test_inputs_that_are_all_alike_find_a_permuted_copy(name):
    params = params_for(MANY_UNITS, 0)
    x = jnp.ones_like(inputs_for(MANY_UNITS, 6))
    expect_restored(merge_on(name, MANY_UNITS, [params, permuted(MANY_UNITS, params)], x), MANY_UNITS, params)


@pytest.mark.parametrize("exponent", [-60, 40])
@pytest.mark.parametrize("name", slow_but({"weight_matching", "c2m3"}, RESTORES))
def test_weights_of_any_size_are_matched(name, exponent, mlp):
    """Squares of 2^-60 and 2^40, layer after layer, are more or less than float32 holds."""
    params = params_for(mlp, 0)
    sized = jax.tree.map(lambda leaf: leaf * 2.0**exponent, params)
    options = ALIGNED if name in LEARNED else {}
    result = merge_on(name, mlp, [sized, permuted(mlp, sized)], inputs_for(mlp), **options)
    got = result.variants.get("hard", result.params)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf / 2.0**exponent, got), params, atol=1e-3)


HALVES = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]


@pytest.mark.filterwarnings("ignore:.*zeta=")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", slow_but({"zipit", "regmean"}, METHODS))
def test_half_precision_stays_half_precision(name, dtype, mlp):
    models = [jax.tree.map(lambda leaf: leaf.astype(dtype), params_for(mlp, seed)) for seed in (0, 1)]
    options = options_for(name, mlp)
    if "base" in options:
        options["base"] = jax.tree.map(lambda leaf: leaf.astype(dtype), options["base"])
    x = inputs_for(mlp)
    spec = af.infer_perm_spec(mlp.apply, models[0], x[:2], check=False)
    result = af.merge_many(models, spec, x, method=name, **options)
    expect_finite(result, name, mlp, models[0], x)


def batch_norm(params, x):
    z = (x @ params["up"] - params["mean"]) / jnp.sqrt(params["var"] + 1e-5)
    return jax.nn.relu(z) @ params["down"]


def over_places(params, x):
    return batch_norm(params, x).mean(1)


def batch_norm_params(seed):
    up, down = (
        jax.random.normal(key, shape)
        for key, shape in zip(jax.random.split(jax.random.key(seed)), [(5, 6), (6, 4)])
    )
    return {"up": up, "mean": jnp.zeros(6), "var": jnp.ones(6), "down": down}


@pytest.mark.parametrize(
    ("network", "shape", "num", "works"),
    [
        (batch_norm, (5,), 1, False),
        (batch_norm, (5,), 2, True),
        (batch_norm, (5,), 501, True),
        (over_places, (1, 5), 1, False),
        (over_places, (7, 5), 1, True),
    ],
)
def test_norms_need_two_numbers_of_every_unit(network, shape, num, works):
    """One input with seven places has a variance; a last batch of one input joins the batch before."""
    models = [batch_norm_params(0), batch_norm_params(1)]
    x = jax.random.normal(jax.random.key(2), (num, *shape))
    spec = af.infer_perm_spec(network, models[0], x, check=False)
    options = {"method": "interpolation", "correction": "reset_norm"}
    if not works:
        with pytest.raises(ValueError, match="two or more inputs .*'mean' holds statistics"):
            af.merge(*models, spec, x, **options)
        return
    result = af.merge(*models, spec, x, **options)
    values = np.asarray(x.reshape(-1, 5) @ result.params["up"], np.float64)
    np.testing.assert_allclose(result.params["mean"], values.mean(0), atol=1e-5)
    np.testing.assert_allclose(result.params["var"], values.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("num", [1, 2])
def test_repair_of_one_input_only_shifts(num, mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    plain, repaired = (
        af.merge(*models, mlp.perm_spec, inputs_for(mlp, num), method="interpolation", correction=how).params
        for how in (None, "repair")
    )
    chex.assert_tree_all_finite(repaired)
    before, after = (params["params"]["dense_0"] for params in (plain, repaired))
    assert np.allclose(before["kernel"], after["kernel"], rtol=1e-5) == (num == 1)
    assert not np.allclose(before["bias"], after["bias"], rtol=1e-5)


def settles(params, x):
    """A fixed point, by a while loop whose number of steps depends on the values."""
    start = x @ params["up"]

    def step(state):
        number, value, _ = state
        new = jnp.tanh(value @ (0.2 * params["across"]) + start)
        return number + 1, new, jnp.abs(new - value).max()

    state = (0, jnp.zeros_like(start), jnp.inf)
    value = jax.lax.while_loop(lambda s: (s[0] < 50) & (s[2] > 1e-6), step, state)[1]
    return value @ params["down"]


TAKE_GRADIENTS = {
    "adamerging": {"num_steps": 2},
    "autofusion": {"epochs": 1},
    "autofusion_paper": {"epochs": 1, "zeta": 0.0},
    "concrete": {"num_steps": 2},
    "fisher": {},
    "pareto": {"num_steps": 2},
    "prune_concat_distill": {"epochs": 1},
    "sinkhorn_rebasin": {"loss": "midpoint", "steps": 2},
    "ste": {"epochs": 1, "zeta": 0.0},
}


def settling_networks():
    shapes = {"up": (3, 5), "across": (5, 5), "down": (5, 2)}
    keys = [jax.random.split(jax.random.key(seed), len(shapes)) for seed in (0, 1)]
    return [{name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, own)} for own in keys]


@pytest.mark.parametrize("name", slow_but({"fisher", "ste"}, TAKE_GRADIENTS))
def test_a_while_loop_is_named_where_gradients_are_taken(name):
    models, x = settling_networks(), jax.random.normal(jax.random.key(7), (8, 3))
    spec = af.infer_perm_spec(settles, models[0], x, check=False)
    base = {"base": models[0]} if getattr(af.methods, name)().needs_base else {}
    with pytest.raises(ValueError, match=rf"^{name}: .*it has a while loop.*'weight_matching'"):
        af.merge_many(models, spec, x, method=name, **TAKE_GRADIENTS[name], **base)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_those_without_gradients_take_while_loops(name):
    models, x = settling_networks(), jax.random.normal(jax.random.key(7), (8, 3))
    spec = af.infer_perm_spec(settles, models[0], x, check=False)
    result = af.merge_many(models, spec, x, method=name)
    chex.assert_tree_all_finite(result.apply_fn(result.params, x))
