import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.symmetry.transform import soften
from tests.conftest import MODELS, inputs_for, params_for

HEADS, DIM, WIDTH = 3, 4, 5


def attention_like():
    """Two projections over `heads x dim`, heads permuting together, units within each head."""

    def apply_fn(params, x):
        q = (x @ params["q"]).reshape(-1, HEADS, DIM)
        k = jnp.einsum("bw,whd->bhd", x, params["k"])
        mixed = jnp.tanh(q + params["bias"]) * k  # [batch, heads, dim]
        return mixed.reshape(-1, HEADS * DIM) @ params["o"]

    shapes = {
        "q": (WIDTH, HEADS * DIM),
        "k": (WIDTH, HEADS, DIM),
        "bias": (HEADS, DIM),
        "o": (HEADS * DIM, 2),
    }
    keys = jax.random.split(jax.random.key(0), 4)
    params = {name: jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items())}
    table = {
        "q": (None, af.out_axis("heads", "units")),
        "k": (None, af.out_axis("heads"), af.out_axis("units")),
        "bias": (af.out_axis("heads"), af.out_axis("units")),
        "o": (af.in_axis("heads", "units"), None),
    }
    spec = af.PermSpec.from_table(table, params, nested={"units": "heads"}, apply_fn=apply_fn)
    return spec, params, jax.random.normal(jax.random.key(9), (7, WIDTH))


def concatenated():
    """A consumer that reads two groups side by side, one of them after a fixed block."""

    def apply_fn(params, x):
        a, b = jnp.tanh(x @ params["a"]), jnp.sin(x @ params["b"])
        return jnp.concatenate([x, a, b], -1) @ params["out"]

    keys = jax.random.split(jax.random.key(1), 3)
    params = {
        "a": jax.random.normal(keys[0], (4, 3)),
        "b": jax.random.normal(keys[1], (4, 5)),
        "out": jax.random.normal(keys[2], (12, 2)),
    }
    table = {
        "a": (None, af.out_axis("a")),
        "b": (None, af.out_axis("b")),
        "out": (af.in_axis(4) + af.in_axis("a") + af.in_axis("b"), None),
    }
    spec = af.PermSpec.from_table(table, params, apply_fn=apply_fn)
    return spec, params, jax.random.normal(jax.random.key(9), (7, 4))


def bundled(name):
    model = MODELS[name]
    return model.perm_spec, params_for(model, 0), inputs_for(model)


CASES = {
    "attention": attention_like(),
    "concat": concatenated(),
    "mlp": bundled("mlp"),
    "vgg": bundled("vgg"),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_function_is_kept(case):
    spec, params, x = case
    assert af.check_perm_spec(spec, params, x) < 1e-5


@pytest.mark.parametrize("name", CASES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_group_laws(name, seed):
    spec, params, _ = CASES[name]
    p, q = (af.random_perms(spec, k) for k in jax.random.split(jax.random.key(seed)))
    both = af.apply_perm(spec, af.apply_perm(spec, params, q), p)
    chex.assert_trees_all_equal(af.apply_perm(spec, params, af.compose(spec, p, q)), both)
    chex.assert_trees_all_equal(af.compose(spec, p, af.invert(spec, p)), af.identity_perms(spec))
    chex.assert_trees_all_equal(af.compose(spec, af.invert(spec, p), p), af.identity_perms(spec))
    chex.assert_trees_all_equal(af.apply_perm(spec, params, af.identity_perms(spec)), params)


def test_soft_at_a_permutation_is_hard(case):
    spec, params, _ = case
    perms = af.random_perms(spec, jax.random.key(3))
    hard = af.apply_perm(spec, params, perms)
    chex.assert_trees_all_close(af.apply_soft(spec, params, soften(spec, perms)), hard, atol=1e-6)


def test_soft_against_dense_float64():
    """Eq. 15 for the VGG, written out densely: kron(I, P) for the flattened head."""
    model = MODELS["vgg"]
    spec, params = model.perm_spec, params_for(model, 0)
    rng = np.random.default_rng(0)
    soft = {name: rng.random((g.size, g.size)) for name, g in spec.groups.items()}
    got = af.apply_soft(spec, params, {n: jnp.asarray(m, jnp.float32) for n, m in soft.items()})["params"]
    p0, p1 = soft["conv_0"], soft["conv_1"]
    w = jax.tree.map(lambda v: np.asarray(v, np.float64), params["params"])
    pixels = w["head"]["kernel"].shape[0] // 6
    expected = {
        "conv_0": {
            "kernel": np.einsum("po,hwio->hwip", p0, w["conv_0"]["kernel"]),
            "bias": p0 @ w["conv_0"]["bias"],
        },
        "conv_1": {
            "kernel": np.einsum("po,qi,hwio->hwqp", p1, p0, w["conv_1"]["kernel"]),
            "bias": p1 @ w["conv_1"]["bias"],
        },
        "head": {"kernel": np.kron(np.eye(pixels), p1) @ w["head"]["kernel"], "bias": w["head"]["bias"]},
    }
    chex.assert_trees_all_close(got, jax.tree.map(np.float32, expected), rtol=1e-5, atol=1e-5)


def test_nested_soft_is_the_documented_block_matrix():
    """Block (h, j) of the whole axis is `outer_soft[h, j] * inner_soft[h]`."""
    spec, params, _ = CASES["attention"]
    rng = np.random.default_rng(0)
    outer, inner = rng.random((HEADS, HEADS)), rng.random((HEADS, DIM, DIM))
    soft = {"heads": jnp.asarray(outer, jnp.float32), "units": jnp.asarray(inner, jnp.float32)}
    whole = np.block([[outer[h, j] * inner[h] for j in range(HEADS)] for h in range(HEADS)])
    got = af.apply_soft(spec, params, soft)["o"]
    np.testing.assert_allclose(got, whole @ np.asarray(params["o"], np.float64), rtol=1e-4, atol=1e-4)


def test_transforms(case):
    spec, params, _ = case
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.vmap(lambda k: af.random_perms(spec, k))(keys)
    batched = jax.jit(jax.vmap(lambda p: af.apply_perm(spec, params, p)))(many)
    for i in range(3):
        one = af.apply_perm(spec, params, jax.tree.map(lambda v, i=i: v[i], many))
        chex.assert_trees_all_equal(jax.tree.map(lambda v, i=i: v[i], batched), one)


def test_specs_are_static_arguments():
    traced = []

    def fn(spec, params, perms):
        traced.append(1)
        return af.apply_perm(spec, params, perms)

    jitted = jax.jit(fn, static_argnums=0)
    for seed in range(3):
        model = MODELS["mlp"]
        jitted(
            model.perm_spec, params_for(model, seed), af.random_perms(model.perm_spec, jax.random.key(seed))
        )
    assert len(traced) == 1


def test_bad_elements():
    spec, params, _ = CASES["attention"]
    good = af.identity_perms(spec)
    with pytest.raises(ValueError, match="missing: 'units'"):
        af.apply_perm(spec, params, {"heads": good["heads"]})
    with pytest.raises(ValueError, match="unknown: 'tails'"):
        af.apply_perm(spec, params, {**good, "tails": good["heads"]})
    with pytest.raises(ValueError, match=r"perms\['units'\] must be integers of shape \(3, 4\)"):
        af.apply_perm(spec, params, {**good, "units": jnp.arange(4)})
    with pytest.raises(ValueError, match=r"soft_perms\['heads'\] must be floats of shape \(3, 3\)"):
        af.apply_soft(spec, params, good)
    with pytest.raises(
        ValueError, match=r"params\['q'\] axis 1 .* must have shape \(5, 12\) .* got \(5, 11\)"
    ):
        af.apply_perm(spec, {**params, "q": jnp.zeros((5, 11))}, good)


def test_wrong_specs_are_refused_by_name(mlp):
    spec, params, x = mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp)
    shapes = {leaf.path: leaf for leaf in spec.leaves}
    table = {
        "params/dense_0/kernel": (None, af.out_axis("dense_0")),
        "params/dense_0/bias": (None,),
        "params/dense_1/kernel": (af.in_axis("dense_0"), af.out_axis("dense_1")),
        "params/dense_1/bias": (af.out_axis("dense_1"),),
        "params/head/kernel": (af.in_axis("dense_1"), None),
        "params/head/bias": (None,),
    }
    assert set(table) == set(shapes)
    wrong = af.PermSpec.from_table(table, params, apply_fn=mlp.apply)
    with pytest.raises(
        ValueError, match=r"group 'dense_0' .* change by .* params/dense_0/bias axis 0 should carry it"
    ):
        af.check_perm_spec(wrong, params, x)
    table["params/dense_0/bias"] = (af.out_axis("dense_0"),)
    table["params/head/bias"] = (af.out_axis("classes"),)
    wrong = af.PermSpec.from_table(table, params, apply_fn=mlp.apply)
    with pytest.raises(ValueError, match="group 'classes'"):
        af.check_perm_spec(wrong, params, x)


def test_nan_outputs_do_not_pass(mlp):
    params = params_for(mlp, 0)
    params["params"]["head"]["bias"] = jnp.full(3, jnp.nan)
    with pytest.raises(ValueError, match="the outputs must be finite"):
        af.check_perm_spec(mlp.perm_spec, params, inputs_for(mlp))


def test_equal_tables_with_other_functions_are_other_specs(mlp):
    """A jit-static spec must not reuse the program of another function."""
    spec, params, x = mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp)
    tenfold = dataclasses.replace(spec, apply_fn=lambda p, x: 10 * mlp.apply(p, x))
    run = jax.jit(af.fused_apply, static_argnums=0)
    one, ten = (run(s, params, params, af.identity_perms(spec), 0.5, x) for s in (spec, tenfold))
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-5)


def test_check_needs_a_function(mlp):
    spec = af.PermSpec.from_json(mlp.perm_spec.to_json())
    with pytest.raises(ValueError, match="spec must carry an apply_fn"):
        af.check_perm_spec(spec, params_for(mlp, 0), inputs_for(mlp))
