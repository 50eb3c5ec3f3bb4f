"""One table of contracts: every registered method on every bundled model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for

SHORT = {"epochs": 3, "batch_size": 8, "zeta": 0.0}
METHODS = {
    "autofusion": SHORT,
    "autofusion_paper": SHORT,
    "confidence_ensemble": {},
    "interpolation": {},
    "weight_matching": {},
}
ENSEMBLES = {"confidence_ensemble"}
SOFT = {"autofusion", "autofusion_paper"}

pairs = pytest.mark.parametrize("name", METHODS)


def merged(name, model, params_a, params_b, seed=0):
    x = inputs_for(model)
    return af.merge(
        params_a, params_b, model.perm_spec, x, method=name, key=jax.random.key(seed), **METHODS[name]
    )


def test_the_table_is_complete():
    assert set(METHODS) == set(af.list_methods())


@pairs
def test_structure_dtypes_and_finiteness(name, model):
    params_a, params_b = params_for(model, 0), params_for(model, 1)
    result = merged(name, model, params_a, params_b)
    if name not in ENSEMBLES:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, params_a)
    chex.assert_tree_all_finite(result.params)
    outputs = result.apply_fn(result.params, inputs_for(model))
    chex.assert_shape(outputs, (24, 3))
    chex.assert_tree_all_finite(outputs)


@pairs
def test_a_model_with_itself_is_itself(name, model):
    params = params_for(model, 0)
    expect_function(aligned(name, model, params, params), name, model, params)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "interpolation"])
def test_a_permuted_copy_keeps_the_function(name, model):
    """Every method but interpolation, which knows of no permutations."""
    params, spec = params_for(model, 0), model.perm_spec
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(4)))
    expect_function(aligned(name, model, params, copy), name, model, params)


def aligned(name, model, params_a, params_b):
    """Merge; AutoFusion long enough, and on L_align, whose optimum is the planted permutation."""
    options = {"strategy": "align", "epochs": 100, "zeta": 0.0} if name in SOFT else {}
    return af.merge(params_a, params_b, model.perm_spec, inputs_for(model), method=name, **options)


def expect_function(result, name, model, params):
    x = inputs_for(model)
    got = result.apply_fn(result.variants["hard"] if name in SOFT else result.params, x)
    expected = model.apply(params, x)
    np.testing.assert_allclose(jax.nn.log_softmax(got), jax.nn.log_softmax(expected), atol=1e-3)


@pairs
def test_a_key_gives_the_same_bits_twice(name, model):
    params_a, params_b = params_for(model, 0), params_for(model, 1)
    first, second = (merged(name, model, params_a, params_b) for _ in range(2))
    chex.assert_trees_all_equal(first.params, second.params)
    chex.assert_trees_all_equal(dict(first.variants), dict(second.variants))


@pairs
def test_repeats_equal_single_merges(name, model):
    params_a, params_b = params_for(model, 0), params_for(model, 1)
    keys = jax.random.split(jax.random.key(3), 2)
    both = af.merge_repeats(
        [params_a, params_b], model.perm_spec, inputs_for(model), keys=keys, method=name, **METHODS[name]
    )
    assert len(both) == 2
    for i in range(2):
        alone = af.merge_repeats(
            [params_a, params_b], model.perm_spec, inputs_for(model), keys=keys[i : i + 1], method=name,
            **METHODS[name],
        )[0]  # fmt: skip
        chex.assert_trees_all_close(both[i].params, alone.params, atol=2e-4)


@pytest.mark.parametrize("name", sorted(SOFT))
def test_soft_and_hard_are_what_they_say(name, model):
    params_a, params_b, spec = params_for(model, 0), params_for(model, 1), model.perm_spec
    result = merged(name, model, params_a, params_b)
    assert set(result.variants) == {"soft", "hard"}
    for variant, perms in (("soft", result.soft_perms), ("hard", result.perms)):
        expected = af.fuse(params_a, params_b, perms, 0.5, spec)
        chex.assert_trees_all_close(result.variants[variant], expected, atol=1e-6)
    chex.assert_trees_all_equal(result.params, result.variants["soft"])
    for group, perm in result.perms.items():
        np.testing.assert_array_equal(np.sort(perm), np.arange(spec.groups[group].size))
        column_sums = np.asarray(result.soft_perms[group]).sum(0)
        np.testing.assert_allclose(column_sums, 1, atol=1e-4)
        row_error = np.abs(np.asarray(result.soft_perms[group]).sum(1) - 1).max()
        np.testing.assert_allclose(result.diagnostics["marginal_error"][group], row_error, atol=1e-4)
    assert result.num_learned == sum(g.size**2 for g in spec.groups.values())
    assert set(result.history) == {"align", "retain", "kept", "row_entropy", "marginal_error"}
    assert all(curve.shape == (3,) for curve in result.history.values())


def test_ensemble_of_three(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    x = inputs_for(mlp)
    result = af.merge_many(models, mlp.perm_spec, x, method="confidence_ensemble")
    probs = np.stack([jax.nn.softmax(mlp.apply(p, x)) for p in models])
    expected = np.take_along_axis(probs, probs.max(-1).argmax(0)[None, :, None], 0)[0]
    np.testing.assert_allclose(np.exp(result.apply_fn(result.params, x)), expected, atol=1e-5)


def test_two_model_methods_refuse_three(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    with pytest.raises(ValueError, match="weight_matching takes at most 2 networks; got 3"):
        af.merge_many(models, mlp.perm_spec, None, method="weight_matching")


def test_fuse_is_vmappable_over_gamma_and_perms(mlp):
    spec, a, b = mlp.perm_spec, params_for(mlp, 0), params_for(mlp, 1)
    gammas = jnp.linspace(0, 1, 3)
    perms = jax.vmap(lambda k: af.random_perms(spec, k))(jax.random.split(jax.random.key(0), 3))
    x = inputs_for(mlp)
    many = jax.jit(jax.vmap(lambda p, g: af.fused_apply(spec, a, b, p, g, x)))(perms, gammas)
    for i in range(3):
        one = af.fuse(a, b, {n: v[i] for n, v in perms.items()}, float(gammas[i]), spec)
        np.testing.assert_allclose(many[i], mlp.apply(one, x), atol=1e-5)


def test_gradients_through_the_fused_network_are_finite(model):
    spec, a, b, x = model.perm_spec, params_for(model, 0), params_for(model, 1), inputs_for(model)
    scores = {
        n: jax.random.normal(jax.random.key(i), (g.size, g.size))
        for i, (n, g) in enumerate(spec.groups.items())
    }

    def loss(scores):
        soft = {n: jnp.exp(af.log_sinkhorn(s, tau=1.0, num_iters=20)) for n, s in scores.items()}
        return jnp.sum(af.fused_apply(spec, a, b, soft, 0.5, x) ** 2)

    grads = jax.grad(loss)(scores)
    chex.assert_tree_all_finite(grads)
    assert all(float(jnp.abs(g).max()) > 0 for g in grads.values())
