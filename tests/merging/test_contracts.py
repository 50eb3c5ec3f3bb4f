"""One table of contracts: every registered method on every bundled model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.diagnostics import READINGS
from tests.conftest import MODELS, inputs_for, params_for

SHORT = {"epochs": 3, "batch_size": 8, "zeta": 0.0}
FIXED = {"gamma": 0.5, "start": "random"}
ALIGNED = {"strategy": "align", "epochs": 100, "zeta": 0.0, "learning_rate": 1.0}
BLOCKS = {"blocks": "*_{}/*"}
"""Every layer but the head, of the MLP and of the VGG."""

METHODS = {
    "activation_matching": {},
    "adamerging": {"num_steps": 5},
    "autofusion": SHORT,
    "autofusion_paper": SHORT,
    "average": {},
    "prune_concat_distill": {"epochs": 2, "batch_size": 8},
    "breadcrumbs": {},
    "c2m3": {},
    "concrete": {"num_steps": 5},
    "confidence_ensemble": {},
    "consensus": {},
    "dare": {},
    "depth_upscaling": {**BLOCKS, "layers": "0-1"},
    "em_ensemble": {},
    "fisher": {},
    "interpolation": {},
    "iso_c": {},
    "iso_cts": {},
    "karcher": {},
    "magmax": {},
    "max_model": {},
    "model_stock": {},
    "moe_merging": BLOCKS,
    "moe_upscaling": {**BLOCKS, "num_experts": 3},
    "mudsc": {},
    "multislerp": {},
    "ot_fusion": {},
    "pareto": {"num_steps": 5},
    "pleas": {},
    "prune_concat": {},
    "recombination": {},
    "regmean": {},
    "sce": {},
    "simple_ensemble": {},
    "sinkhorn_rebasin": {},
    "slerp": {},
    "smile": {},
    "ste": SHORT,
    "surgery": {"num_steps": 5},
    "task_arithmetic": {},
    "ties": {},
    "tsv": {},
    "weight_matching": {},
    "weighted_average": {},
    "weighted_ensemble": {},
    "wemoe": {**BLOCKS, "num_steps": 5},
    "wudi": {},
    "z_ensemble": {},
    "zipit": {},
}
BUILT = {name: getattr(af.methods, name)(**options) for name, options in METHODS.items()}
NEED_BASE = {name for name, method in BUILT.items() if method.needs_base}
OTHER_PROGRAM = {name for name, method in BUILT.items() if method.changes_program}
"""Methods whose parameters and units are not those of one network."""

LEARNED = {"autofusion", "autofusion_paper"}
ASSUME_ALIGNED = {name for name, method in BUILT.items() if method.assumes_aligned} - {"interpolation"}
"""Methods that take units in the order in which they are: what follows such a merge, and an alignment
before it, are the front door's (test_front_door.py), and shown here by one of them, interpolation."""

MOVES = [name for name in METHODS if name not in ASSUME_ALIGNED]

RUN_NETWORKS = {"adamerging", "concrete", "fisher", "pareto", "regmean", "smile", "surgery"}
OF_BLOCKS = {"depth_upscaling", "moe_merging", "moe_upscaling", "wemoe"}
"""Methods that find blocks by their names: see `mixtures/` and test_contracts_transformers.py."""

LEAF_BY_LEAF = ASSUME_ALIGNED - RUN_NETWORKS - OF_BLOCKS
"""Methods that never run the networks, to which a larger model is only more leaves."""

NOT_ITSELF = {
    "adamerging": "adds what two networks learned, each by what it learns itself",
    "prune_concat_distill": "starts from prune_concat",
    "breadcrumbs": "trims what each learned",
    "concrete": "masks and adds what two networks learned",
    "consensus": "adds what two networks learned",
    "dare": "drops a part of what each learned",
    "em_ensemble": "answers by a mixture of Gaussians",
    "iso_c": "evens out singular values",
    "iso_cts": "evens out singular values",
    "pareto": "adds what two networks learned, as its gates say",
    "prune_concat": "keeps half of the units of each",
    "sce": "keeps only what networks differ in",
    "surgery": "starts from task arithmetic",
    "task_arithmetic": "adds what two networks learned",
    "ties": "trims what each learned",
    "tsv": "keeps half of the singular values of each",
    "wemoe": "adds what two networks learned, each by what its routers say",
    "wudi": "starts from the sum of what two networks learned",
    "z_ensemble": "answers in standard units",
}
"""Methods under which a network merged with itself is not itself, with the reason."""


def on_networks(names):
    """On the MLP, and, slow, those methods on the VGG that can tell a convolution from any other leaf."""
    slow = [
        pytest.param(MODELS["vgg"], name, marks=pytest.mark.slow, id=f"vgg-{name}")
        for name in names
        if name not in LEAF_BY_LEAF
    ]
    fast = [pytest.param(MODELS["mlp"], name, id=f"mlp-{name}") for name in names]
    return pytest.mark.parametrize(("model", "name"), [*fast, *slow])


def slow_but(fast, names):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


def options_for(name, model, *, align=False):
    """The options of a method, with a base where it needs one, and an alignment if asked for."""
    base = {"base": params_for(model, 9)} if name in NEED_BASE else {}
    aligner = {"align": "weight_matching"} if align and BUILT[name].assumes_aligned else {}
    return {**METHODS[name], **base, **aligner}


def merged(name, model, models, seed=0, **more):
    options = {**options_for(name, model), **more}
    return af.merge_many(
        models, model.perm_spec, inputs_for(model), method=name, key=jax.random.key(seed), **options
    )


def test_the_table_is_complete():
    assert set(METHODS) == set(af.list_methods())
    assert set(NOT_ITSELF) <= set(METHODS)


@on_networks(METHODS)
def test_structure_finiteness_and_the_same_bits_twice(name, model):
    models = [params_for(model, 0), params_for(model, 1)]
    result, again = (merged(name, model, models) for _ in range(2))
    chex.assert_trees_all_equal(result.params, again.params)
    chex.assert_trees_all_equal(dict(result.variants), dict(again.variants))
    chex.assert_tree_all_finite(result.params)
    outputs = result.apply_fn(result.params, inputs_for(model))
    chex.assert_shape(outputs, (24, 3) if result.num_heads == 1 else (result.num_heads, 24, 3))
    chex.assert_tree_all_finite(outputs)
    expect_described(result)
    if name not in OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
        expect_whole_units(model.perm_spec, result)


def expect_described(result):
    """A pytree without words among its leaves, short as text, and every diagnostic is explained."""
    assert not any(isinstance(leaf, str) for leaf in jax.tree.leaves(result))
    again = jax.tree.map(lambda leaf: leaf, result)
    assert again.recipe == result.recipe and dict(again.diagnostics).keys() == dict(result.diagnostics).keys()
    assert len(repr(result)) < 2000 and repr(result).count("\n") < 20
    assert set(result.diagnostics) <= set(READINGS)


def expect_whole_units(spec, result):
    """What a merged unit is made of adds up to one (soft permutations: their columns do)."""
    assert len(result.alignments) == len(result.weights) == 2
    for group in spec.groups:
        total = 0.0
        for alignment, weight in zip(result.alignments, result.weights):
            element = np.asarray(alignment[group])
            soft = np.issubdtype(element.dtype, np.floating)
            total = total + weight * (element.sum(-1).mean(-1) if soft else np.ones(element.shape[:-1]))
        np.testing.assert_allclose(total, 1, atol=1e-4)


@on_networks([name for name in METHODS if name not in NOT_ITSELF])
def test_a_model_with_itself_is_itself(name, model):
    params = params_for(model, 0)
    expect_function(aligned(name, model, params, params), name, model, params)


@on_networks([name for name in MOVES if name in NOT_ITSELF])
def test_a_permuted_copy_is_as_good_as_the_model_itself(name, model):
    params, spec, x = params_for(model, 0), model.perm_spec, inputs_for(model)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(4)))
    options = options_for(name, model, align=True)
    results = [merged(name, model, [params, other], **options) for other in (params, copy)]
    outputs = [result.apply_fn(result.params, x) for result in results]
    probs = [jax.nn.softmax(out) for out in outputs]
    # Sums over reordered units round differently; EM on 24 inputs magnifies that to a few thousandths.
    np.testing.assert_allclose(probs[0], probs[1], atol=5e-3)


@on_networks([name for name in MOVES if name not in NOT_ITSELF])
def test_a_permuted_copy_keeps_the_function(name, model):
    params, spec = params_for(model, 0), model.perm_spec
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(4)))
    expect_function(aligned(name, model, params, copy), name, model, params)


def aligned(name, model, params_a, params_b):
    """Merge; AutoFusion long enough, and on L_align, whose optimum is the planted permutation."""
    options = ALIGNED if name in LEARNED else options_for(name, model, align=True)
    return af.merge(params_a, params_b, model.perm_spec, inputs_for(model), method=name, **options)


def expect_function(result, name, model, params):
    x = inputs_for(model)
    got = result.apply_fn(result.variants.get("hard", result.params), x)
    expected = model.apply(params, x)
    np.testing.assert_allclose(jax.nn.log_softmax(got), jax.nn.log_softmax(expected), atol=1e-3)


USE_KEY = [name for name in METHODS if BUILT[name].uses_key]


@pytest.mark.parametrize("name", slow_but({"dare", "ste"}, USE_KEY))
def test_repeats_equal_single_merges(name, mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    keys = jax.random.split(jax.random.key(3), 2)
    x, options = inputs_for(mlp), options_for(name, mlp)
    both = af.merge_repeats(models, mlp.perm_spec, x, keys=keys, method=name, **options)
    assert len(both) == 2
    for i in range(2):
        alone = af.merge_repeats(models, mlp.perm_spec, x, keys=keys[i : i + 1], method=name, **options)[0]
        chex.assert_trees_all_close(both[i].params, alone.params, atol=2e-4)


@pytest.mark.parametrize("name", slow_but(LEAF_BY_LEAF, METHODS))
def test_three_networks(name, mlp):
    """All at once, or one after another; a network three times is still itself."""
    models = [params_for(mlp, seed) for seed in range(3)]
    result = merged(name, mlp, models)
    chex.assert_tree_all_finite(result.params)
    outputs = result.apply_fn(result.params, inputs_for(mlp))
    chex.assert_shape(outputs, (24, 3) if result.num_heads == 1 else (result.num_heads, 24, 3))
    if name not in OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
        assert len(result.alignments) == len(result.weights) == 3


@pytest.mark.parametrize("name", [name for name in MOVES if name not in OTHER_PROGRAM])
def test_corrections_follow_every_method(name, mlp):
    """But not those whose network is another program (refused: corrections/test_repair.py)."""
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    result = merged(name, mlp, models, correction="repair")
    assert result.diagnostics["correction"]["corrected"] == 2
    chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
    chex.assert_tree_all_finite(result.params)


@pytest.mark.parametrize("name", sorted(LEARNED))
def test_soft_and_hard_are_what_they_say(name, model):
    params_a, params_b, spec = params_for(model, 0), params_for(model, 1), model.perm_spec
    result = merged(name, model, [params_a, params_b], **(FIXED if name == "autofusion" else {}))
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


def test_one_after_another_is_what_it_says(mlp):
    """Weights and alignments of a sequential merge rebuild it from the originals."""
    models = [params_for(mlp, seed) for seed in range(3)]
    spec = mlp.perm_spec
    result = af.merge_many(models, spec, None, method="weight_matching", gamma=0.6)
    np.testing.assert_allclose(result.weights, (0.36, 0.24, 0.4), rtol=1e-6)
    moved = [af.apply_perm(spec, p, perms) for p, perms in zip(models, result.alignments)]
    expected = jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(result.weights, leaves)), *moved)
    chex.assert_trees_all_close(result.params, expected, atol=1e-6)


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
