import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.averaging.fisher import fisher_average
from autofusion_jax.merging.averaging.fisher_information import (
    batch_summed_fisher,
    diagonal_fisher,
    gaussian_fisher,
)
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.fusionbench import expect_oracle, fusionbench_apply, fusionbench_networks

GIVEN = {  # oracle -> options
    "fb_fisher_norm0_min1e-06": {},
    "fb_fisher_norm1_min1e-06": {"normalize": True},
    "fb_fisher_norm1_min0.01": {"normalize": True, "min_fisher": 0.01},
    "fb_fisher_coef": {"normalize": True, "weights": [0.2, 0.3, 0.5]},
}


def given_fishers():
    stored = oracle("fusionbench/fisher_inputs.npz")
    return [
        {path.removeprefix(f"ft{i}/"): leaf for path, leaf in stored.items() if path.startswith(f"ft{i}/")}
        for i in range(3)
    ]


@pytest.mark.parametrize("name", GIVEN)
def test_given_fishers_weigh_as_in_fusionbench(name):
    _, models = fusionbench_networks()
    result = af.merge_many(models, None, None, method="fisher", fishers=given_fishers(), **GIVEN[name])
    expect_oracle(name, result.params)


def test_fusionbenchs_own_fishers():
    """Networks whose inputs differ, batches of 16."""
    _, models = fusionbench_networks()
    x = jnp.asarray(oracle("fusionbench/inputs.npz")["x"])
    inputs = [x * (1 + 0.1 * i) for i in range(3)]
    options = {"variant": "fusionbench", "inputs": inputs, "batch_size": 16, "normalize": True}
    result = af.merge_many(models, None, None, method="fisher", apply_fn=fusionbench_apply, **options)
    expect_oracle("fb_fisher_e2e", result.params)


def by_hand(apply_fn, params, x, weigh):
    """One input and one class at a time."""
    total = jax.tree.map(jnp.zeros_like, params)
    for i, x_i in enumerate(x):
        probs = jax.nn.softmax(apply_fn(params, x_i[None])[0])
        for c, share in enumerate(weigh(i, probs)):
            grads = jax.grad(lambda p, x_i=x_i, c=c: jax.nn.log_softmax(apply_fn(p, x_i[None])[0])[c])(params)
            total = jax.tree.map(lambda t, g, share=share: t + share * g**2 / len(x), total, grads)
    return total


@pytest.mark.parametrize("batch_size", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 32))])
def test_diagonal_by_hand(mlp, batch_size):
    """The last batch of 4 is not full; what fills it up does not count."""
    params, x = params_for(mlp, 0), inputs_for(mlp, 7)
    y = jnp.arange(7) % 3
    kinds = {
        "labels": (y, {}, lambda i, p: jax.nn.one_hot(y[i], 3)),
        "expectation": (None, {}, lambda i, p: p),
        "argmax": (None, {"predictions": "argmax"}, lambda i, p: jax.nn.one_hot(p.argmax(), 3)),
    }
    for labels, options, weigh in kinds.values():
        got = diagonal_fisher(mlp.apply, params, x, labels, batch_size=batch_size, **options)
        expected = by_hand(mlp.apply, params, x, weigh)
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-6)


def test_dense_layers_make_no_gradient_for_each_input(mlp):
    """Only what is not a weight of a dense layer has one: no value of the program is `[5, *weight]`."""
    params, x = params_for(mlp, 0), inputs_for(mlp, 7)
    program = str(jax.make_jaxpr(lambda p: diagonal_fisher(mlp.apply, p, x, batch_size=5))(params))
    assert "f32[5,12]" in program  # the gradient of a bias
    for kernel in (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2):
        shape = ",".join(map(str, kernel.shape))
        assert f"f32[{shape}]" in program and f"f32[5,{shape}]" not in program


def test_batches_matter_for_fusionbenchs_only(mlp):
    params, x = params_for(mlp, 0), inputs_for(mlp, 8)
    per_input, summed = (
        [np.asarray(f(mlp.apply, params, x, batch_size=size)["params"]["head"]["bias"]) for size in (2, 8)]
        for f in (diagonal_fisher, batch_summed_fisher)
    )
    np.testing.assert_allclose(*per_input, rtol=1e-5)
    assert np.abs(summed[0] - summed[1]).max() > 1e-2 * summed[0].max()


def test_the_surer_network_counts_by_what_it_needs(mlp):
    """Merging by measured Fishers is the formula on them; labels are used where there are any."""
    models, x = [params_for(mlp, seed) for seed in range(2)], inputs_for(mlp)
    y = jnp.arange(24) % 3
    for labels in (None, y):
        result = af.merge_many(models, None, x, labels=labels, method="fisher", apply_fn=mlp.apply)
        fishers = [diagonal_fisher(mlp.apply, params, x, labels) for params in models]
        expected = jax.tree.map(
            lambda a, b, f, g: ((f + 1e-6) * a + (g + 1e-6) * b) / (f + g + 2e-6), *models, *fishers
        )
        chex.assert_trees_all_close(result.params, expected, rtol=1e-4, atol=1e-5)
        norms = [np.sqrt(sum(np.sum(np.square(v)) for v in jax.tree.leaves(f))) for f in fishers]
        np.testing.assert_allclose(result.diagnostics["norms"], norms, rtol=1e-5)


@pytest.mark.slow
def test_own_inputs(mlp):
    models = [params_for(mlp, seed) for seed in range(2)]
    own = [inputs_for(mlp, 10, seed=1), (inputs_for(mlp, 6, seed=2), jnp.zeros(6, int))]
    result = af.merge_many(models, mlp.perm_spec, None, method="fisher", inputs=own)
    fishers = [
        diagonal_fisher(mlp.apply, models[0], own[0]),
        diagonal_fisher(mlp.apply, models[1], *own[1]),
    ]
    known = af.merge_many(models, None, None, method="fisher", fishers=fishers)
    chex.assert_trees_all_close(result.params, known.params, atol=1e-6)


def test_leaves_that_are_no_floats_and_half_precision():
    def apply_fn(params, x):
        return x @ params["w"] + params["step"]

    key = jax.random.key(0)
    models = [{"w": jax.random.normal(k, (4, 3), jnp.bfloat16), "step": 7} for k in jax.random.split(key)]
    result = af.merge_many(models, None, jnp.ones((5, 4)), method="fisher", apply_fn=apply_fn)
    assert int(result.params["step"]) == 7
    assert result.params["w"].dtype == jnp.bfloat16
    chex.assert_tree_all_finite(result.params["w"].astype(jnp.float32))


def test_many_weights_at_once():
    _, models = fusionbench_networks()
    fishers, weights = given_fishers(), jax.random.uniform(jax.random.key(0), (4, 3))
    many = jax.vmap(fisher_average, (None, None, 0, None))(models, fishers, weights, 1e-6)
    for i, each in enumerate(weights):
        one = fisher_average(models, fishers, each, 1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], many), one, atol=1e-6)


def test_what_does_not_fit_the_networks(mlp):
    _, models = fusionbench_networks()
    fishers, params, x = given_fishers(), [params_for(mlp, 0)] * 2, inputs_for(mlp)

    def refused(message, models, **options):
        with pytest.raises(ValueError, match=message):
            af.merge_many(models, None, options.pop("batch", None), method="fisher", **options)

    refused("fisher: fishers must be 3 pytrees, one for each network; got 2", models, fishers=fishers[:2])
    wrong = [*fishers[:2], {**fishers[2], "fc1.bias": -fishers[2]["fc1.bias"]}]
    refused(r"fisher: fishers\[2\]\['fc1.bias'\] must be finite and 0 or more", models, fishers=wrong)
    wrong = [*fishers[:2], {**fishers[2], "fc1.bias": jnp.ones(3)}]
    refused(r"fishers\[2\]\['fc1.bias'\] must be of shape \(16,\); got \(3,\)", models, fishers=wrong)
    wrong = [*fishers[:2], {"fc1.bias": fishers[2]["fc1.bias"]}]
    refused(r"fishers\[2\] must be a pytree of the networks' structure; got other", models, fishers=wrong)
    refused("this method needs inputs", params, apply_fn=mlp.apply)
    refused("perm_spec must carry an apply_fn", params, batch=x)
    refused(
        r"fisher: inputs must be 2 batches, one for each network; got 1",
        params, apply_fn=mlp.apply, inputs=[x],
    )  # fmt: skip
    refused(
        r"fisher: inputs\[1\] must be inputs \[N, ...\] that apply_fn takes",
        params, apply_fn=mlp.apply, inputs=[x, x[:, :2]],
    )  # fmt: skip
    refused(
        r"fisher: the networks' output must be one vector of logits of two or more classes .* shape \[1\]",
        params, apply_fn=lambda p, x: mlp.apply(p, x)[:, :1], batch=x,
    )  # fmt: skip


def test_gaussian_fisher_by_hand():
    """For a linear layer random signs are exact: E[x_i^2]; with tanh, times its slope squared."""
    x, key = jax.random.normal(jax.random.key(1), (40, 3)), jax.random.key(2)
    params = {"w": jax.random.normal(key, (3, 2))}
    linear = gaussian_fisher(lambda p, x: x @ p["w"], params, x, key, batch_size=16)
    expected = np.repeat(np.mean(np.square(x), 0)[:, None], 2, axis=1)
    np.testing.assert_allclose(linear["w"], expected, rtol=1e-5)
    curved = gaussian_fisher(lambda p, x: jnp.tanh(x @ p["w"]), params, x, key, batch_size=16)
    slopes = 1 - np.tanh(np.asarray(x @ params["w"])) ** 2
    expected = np.mean(np.square(x)[:, :, None] * slopes[:, None] ** 2, 0)
    np.testing.assert_allclose(curved["w"], expected, rtol=1e-4)
