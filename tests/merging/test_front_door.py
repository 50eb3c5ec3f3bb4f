"""What `merge_many` does around a method: alignment, base, dtypes, and networks without a spec."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for


def shuffled(spec, params, seed):
    return af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(seed)))


def test_aligned_copies_average_to_the_network_itself(mlp):
    spec, params, x = mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp)
    copies = [params, shuffled(spec, params, 1), shuffled(spec, params, 2)]
    result = af.merge_many(copies, spec, x, method="interpolation", align="activation_matching")
    chex.assert_trees_all_close(result.params, params, atol=1e-6)
    for copy, perms in zip(copies, result.alignments):
        chex.assert_trees_all_equal(af.apply_perm(spec, copy, perms), params)


def test_task_vectors_of_networks_in_another_order(mlp):
    """An aligned network adds the task vector that it has in A's order of units."""
    spec, base, x = mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp)
    tuned = [jax.tree.map(lambda p, d: p + 0.01 * d, base, params_for(mlp, seed)) for seed in (1, 2)]
    models = [tuned[0], shuffled(spec, tuned[1], 3)]
    options = {"base": base, "method": "task_arithmetic", "scale": 0.4}
    got = af.merge_many(models, spec, x, align="weight_matching", **options)
    expected = af.merge_many(tuned, spec, x, **options)
    chex.assert_trees_all_close(got.params, expected.params, atol=1e-6)
    assert got.weights == (0.5, 0.5)


def test_correction_after_alignment_knows_the_permutations(mlp):
    """REPAIR of an aligned average has as targets the statistics of the networks as they were given."""
    spec, x = mlp.perm_spec, inputs_for(mlp)
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    found = af.merge(a, b, spec, x, method="weight_matching", correction="repair")
    got = af.merge(a, b, spec, x, method="interpolation", align="weight_matching", correction="repair")
    chex.assert_trees_all_close(got.params, found.params, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "align", "message"),
    [
        ("zipit", "weight_matching", "align must be None for zipit, which needs no aligned networks"),
        (
            "interpolation",
            "task_arithmetic",
            "a method that finds permutations.*task_arithmetic",
        ),
        ("interpolation", "z_ensemble", "a method that finds permutations.*z_ensemble"),
        ("interpolation", "weight_machting", "Did you mean 'weight_matching'"),
    ],
)
def test_bad_alignments(mlp, method, align, message):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    with pytest.raises(ValueError, match=message):
        af.merge_many(models, mlp.perm_spec, inputs_for(mlp), method=method, align=align)


def test_without_a_spec():
    models = [{"w": jnp.array([[1.0]])}, {"w": jnp.array([[3.0]])}]
    result = af.merge_many(models, None, None, method="interpolation", gamma=0.25)
    assert result.params["w"].tolist() == [[2.5]] and result.apply_fn is None

    def linear(params, x):
        return x @ params["w"]

    result = af.merge_many(models, None, jnp.ones((2, 1)), method="interpolation", apply_fn=linear)
    assert result.apply_fn(result.params, jnp.ones((1, 1))).tolist() == [[2.0]]
    for options, message in (
        ({"method": "weight_matching"}, "perm_spec must be a PermSpec; got None. Give infer_perm_spec"),
        ({"method": "interpolation", "align": "weight_matching"}, "perm_spec must be a PermSpec"),
        ({"method": "interpolation", "correction": "repair"}, "perm_spec must be a PermSpec"),
        ({"method": "confidence_ensemble"}, "apply_fn; got none. Give apply_fn=f"),
    ):
        with pytest.raises(ValueError, match=message):
            af.merge_many(models, None, None, **options)


def test_another_apply_fn_than_the_specs(mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    options = {"method": "interpolation", "apply_fn": lambda params, x: x}
    with pytest.raises(ValueError, match="apply_fn must be left out where perm_spec carries one"):
        af.merge_many(models, mlp.perm_spec, None, **options)


def test_dtypes_are_promoted_on_request():
    wide, narrow = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0], jnp.bfloat16)}
    with pytest.raises(
        ValueError, match=r"params_b\['w'\] must be float32\[2\].*got bfloat16\[2\].*promote=True"
    ):
        af.merge_many([wide, narrow], None, None, method="interpolation")
    for models in ([wide, narrow], [narrow, wide]):
        merged = af.merge_many(models, None, None, method="interpolation", promote=True).params["w"]
        assert merged.dtype == jnp.float32 and merged.tolist() == [2.0, 3.0]
    base = {"w": jnp.zeros(2)}
    result = af.merge_many(
        [narrow, narrow], None, None, base=base, method="task_arithmetic", scale=1.0, promote=True
    )
    assert result.params["w"].dtype == jnp.float32 and result.params["w"].tolist() == [6.0, 8.0]
    with pytest.raises(ValueError, match=r"params_b\['v'\] must be nothing as in params_a"):
        af.merge_many([wide, {**wide, "v": jnp.ones(1)}], None, None, method="interpolation", promote=True)


def test_a_base_that_is_missing_or_does_not_fit(mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    with pytest.raises(ValueError, match="base must be the parameters .*; got None"):
        af.merge_many(models, mlp.perm_spec, None, method="task_arithmetic")
    with pytest.raises(
        ValueError, match=r"merge: base\['params/dense_0/bias'\] must be float32.*got nothing"
    ):
        af.merge_many(models, mlp.perm_spec, None, method="task_arithmetic", base={"params": {}})


@pytest.mark.parametrize("method", ["interpolation", "task_arithmetic", "weight_matching"])
@pytest.mark.parametrize("name", ["params_a", "params_b", "models[2]", "base"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(mlp, method, name, value):
    """Whether all networks are searched before the merge, or the merged one after it."""
    networks = {n: params_for(mlp, i) for i, n in enumerate(["params_a", "params_b", "models[2]", "base"])}
    bias = networks[name]["params"]["dense_1"]["bias"]
    networks[name]["params"]["dense_1"]["bias"] = bias.at[2].set(value)
    base = networks.pop("base")
    if method != "task_arithmetic" and name == "base":
        base = None
        networks["params_a"]["params"]["dense_1"]["bias"] = bias.at[2].set(value)
        name = "params_a"
    pattern = rf"merge: {name}['params/dense_1/bias'] must be finite; got 1 NaN".replace("[", r"\[")
    with pytest.raises(ValueError, match=pattern):
        af.merge_many(list(networks.values()), mlp.perm_spec, None, method=method, base=base)


def test_finite_values_that_overflow_when_summed_are_finite():
    large = {"w": jnp.full(4, 3e38)}
    result = af.merge_many([large, large], None, None, method="interpolation")
    np.testing.assert_allclose(result.params["w"], 3e38, rtol=1e-6)


def test_words_of_networks_that_differ_are_told():
    """The first network's are used for all, so another activation in the second is another function."""
    apply_fn = lambda p, x: getattr(jnp, p["act"])(x @ p["w"])  # noqa: E731
    a, b = ({"act": act, "key": jax.random.key(i), "w": jnp.eye(2)} for i, act in enumerate(("tanh", "sin")))
    with pytest.warns(
        UserWarning, match="params_b has another leaf that is no number at 'act' than params_a"
    ):
        af.merge(a, b, None, jnp.ones((3, 2)), method="simple_ensemble", apply_fn=apply_fn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        af.merge(a, {**b, "act": "tanh"}, None, method="average")


def test_a_list_of_rows_is_no_batch():
    """Batches of one shape are concatenated; rows would become one long input."""
    apply_fn, params = lambda p, x: x * p["w"], {"w": jnp.ones(())}
    with pytest.raises(ValueError, match="batch must be one array of inputs"):
        af.merge(params, params, None, [jnp.ones(4)] * 3, method="average", apply_fn=apply_fn)
