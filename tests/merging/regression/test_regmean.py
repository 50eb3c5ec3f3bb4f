import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.regression.regmean import find_layers, gram_matrices, regression_mean
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.fusionbench import expect_oracle, fusionbench_apply, fusionbench_networks
from tests.merging.regression.test_pleas import LAYERS

TINY = 1e-9


def given_grams():
    stored = oracle("fusionbench/gram_inputs.npz")
    return [
        {
            f"{name.removeprefix(f'ft{i}/')}.weight": g
            for name, g in stored.items()
            if name.startswith(f"ft{i}/")
        }
        for i in range(3)
    ]


def own_inputs():
    x = jnp.asarray(oracle("fusionbench/inputs.npz")["x"])
    return [x * (1 + 0.1 * i) for i in range(3)]


@pytest.mark.parametrize("alpha", [0.1, 0.95, 1.0])
def test_given_grams_are_used_as_in_fusionbench(alpha):
    _, models = fusionbench_networks()
    options = {"grams": given_grams(), "alpha": alpha, "ridge": TINY, "apply_fn": fusionbench_apply}
    result = af.merge_many(models, None, jnp.zeros((1, 8)), method="regmean", **options)
    expect_oracle(f"fb_regmean_a{alpha}", result.params)
    assert result.diagnostics["fitted"] == ["fc1.weight", "fc2.weight", "head.weight"]


def test_measured_grams_are_fusionbenchs():
    """The reference inverts in single precision, which moves its fc2 by 3e-5; hence also float64."""
    _, models = fusionbench_networks()
    options = {"inputs": own_inputs(), "ridge": TINY, "apply_fn": fusionbench_apply}
    result = af.merge_many(models, None, None, method="regmean", **options)
    expect_oracle("fb_regmean_e2e_a0.9", result.params, atol=5e-5)
    measured = [gram_matrices(fusionbench_apply, params, x) for params, x in zip(models, own_inputs())]
    for path in ("fc1.weight", "fc2.weight", "head.weight"):
        grams = [np.float64(known[path][0]) for known in measured]
        grams = [0.9 * gram + 0.1 * np.diag(np.diag(gram)) for gram in grams]
        wanted = sum(gram @ np.float64(params[path]).T for gram, params in zip(grams, models))
        np.testing.assert_allclose(result.params[path].T, np.linalg.solve(sum(grams), wanted), atol=1e-5)
        assert float(jnp.abs(result.params[path] - sum(p[path] for p in models) / 3).max()) > 1e-2


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.slow
def test_the_loss_is_stationary(name):
    """The gradient of `sum_k E |layer(W) z_k - layer(W_k) z_k|^2`, by autodiff, is zero at the merge."""
    layer, shape, weight, bias, _ = LAYERS[name]

    def apply_fn(params, x):
        return jnp.sin(layer(params, x))

    keys = jax.random.split(jax.random.key(0), 6)
    models = [
        {"w": jax.random.normal(keys[i], weight), "b": jax.random.normal(keys[i + 2], bias)} for i in range(2)
    ]
    inputs = [jnp.tanh(scale * jax.random.normal(keys[i + 4], (60, *shape))) for i, scale in ((0, 1), (1, 3))]
    options = {"inputs": inputs, "alpha": 1.0, "ridge": TINY, "apply_fn": apply_fn}
    result = af.merge_many(models, None, None, method="regmean", **options)
    assert result.diagnostics["fitted"] == ["w"] and result.num_learned == result.params["w"].size

    @jax.jit
    def loss(w):
        gaps = [
            layer({**p, "w": w, "b": 0 * p["b"]}, x) - layer({**p, "b": 0 * p["b"]}, x)
            for p, x in zip(models, inputs)
        ]
        return sum(jnp.mean(gap**2) for gap in gaps)

    mean = (models[0]["w"] + models[1]["w"]) / 2
    before, after = (jnp.abs(jax.grad(loss)(w)).max() for w in (mean, result.params["w"]))
    assert after < 2e-3 * before
    assert loss(result.params["w"]) < loss(mean)
    np.testing.assert_allclose(result.params["b"], (models[0]["b"] + models[1]["b"]) / 2, rtol=1e-6)


@pytest.mark.slow
def test_first_layer_is_fitted_and_biases_are_averaged(vgg):
    models, x = [params_for(vgg, seed) for seed in range(2)], inputs_for(vgg)
    result = af.merge_many(models, vgg.perm_spec, x, method="regmean")
    kernels = [f"params/{layer}/kernel" for layer in ("conv_0", "conv_1", "head")]
    assert result.diagnostics["fitted"] == kernels
    assert all(path.endswith(("bias", "scale", "mean", "var")) for path in result.diagnostics["averaged"])
    assert gram_matrices(vgg.apply, models[0], x)[kernels[0]].shape == (1, 18, 18)


def test_nothing_off_the_diagonal_is_a_weighted_average_of_rows():
    rng = np.random.default_rng(0)
    kernels, reads = rng.standard_normal((2, 1, 4, 3)), rng.standard_normal((2, 9, 4)) * [1, 2, 3, 4]
    grams = np.einsum("ksi,ksj->kij", reads, reads)[:, None] / 9
    shares = np.einsum("kbii->kbi", grams)[..., None]
    got = regression_mean(jnp.float32(kernels), jnp.float32(grams), 0.0, TINY)
    np.testing.assert_allclose(got, (shares * kernels).sum(0) / shares.sum(0), atol=1e-5)


def test_what_no_network_reads_is_averaged():
    """A unit that is never active; and at alpha 1 fewer inputs than numbers read."""
    rng = np.random.default_rng(0)
    kernels = jnp.float32(rng.standard_normal((2, 1, 40, 3)))
    reads = np.maximum(rng.standard_normal((2, 10, 40)), 0)
    reads[..., 7] = 0
    grams = jnp.float32(np.einsum("ksi,ksj->kij", reads, reads)[:, None] / 10)
    for alpha in (0.9, 1.0):
        got = regression_mean(kernels, grams, alpha, 1e-4)
        np.testing.assert_allclose(got[0, 7], kernels[:, 0, 7].mean(0), atol=1e-5)
    unseen = np.linalg.svd(np.concatenate(reads), full_matrices=True)[2][20:]
    np.testing.assert_allclose(unseen @ got[0], unseen @ kernels.mean(0)[0], atol=2e-2)
    assert float(jnp.abs(got).max()) < 5


def test_many_alphas_at_once():
    rng = np.random.default_rng(0)
    kernels, reads = jnp.float32(rng.standard_normal((2, 2, 4, 3))), rng.standard_normal((2, 2, 9, 4))
    grams = jnp.float32(np.einsum("kbsi,kbsj->kbij", reads, reads))
    alphas = jnp.array([0.0, 0.5, 1.0])
    many = jax.vmap(regression_mean, (None, None, 0, None))(kernels, grams, alphas, 1e-4)
    for i, alpha in enumerate(alphas):
        np.testing.assert_allclose(many[i], regression_mean(kernels, grams, alpha, 1e-4), atol=1e-5)


@pytest.mark.slow
def test_grams_can_be_measured_elsewhere(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    inputs = [inputs_for(mlp, 20, seed=seed) for seed in range(3)]
    here = af.merge_many(models, mlp.perm_spec, None, method="regmean", inputs=inputs)
    grams = [gram_matrices(mlp.apply, params, x) for params, x in zip(models, inputs)]
    there = af.merge_many(models, mlp.perm_spec, inputs[0][:1], method="regmean", grams=grams)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), here.params, there.params)
    shared = af.merge_many(models, mlp.perm_spec, inputs[0], method="regmean")
    assert (
        float(
            jnp.abs(shared.params["params"]["head"]["kernel"] - here.params["params"]["head"]["kernel"]).max()
        )
        > 1e-3
    )


def test_weights_used_twice_and_left_out_grams_are_averaged():
    def apply_fn(params, x):
        return jnp.tanh(jnp.tanh(x @ params["tied"]) @ params["tied"]) @ params["out"]

    models = [{"tied": jnp.eye(4) + i, "out": jnp.ones((4, 2)) * i} for i in range(2)]
    x = jax.random.normal(jax.random.key(0), (8, 4))
    assert [layer.weight for layer in find_layers(apply_fn, models[0], x).layers] == ["out"]
    result = af.merge_many(models, None, x, method="regmean", apply_fn=apply_fn, grams=[{}, {}])
    assert result.diagnostics["fitted"] == [] and result.num_learned == 0
    np.testing.assert_allclose(result.params["out"], 0.5)
    np.testing.assert_allclose(result.params["tied"], np.eye(4) + 0.5)


def test_what_does_not_fit_the_networks():
    _, models = fusionbench_networks()
    grams, x = given_grams(), own_inputs()[0]
    bad = {
        r"regmean: grams must be 3 dicts, one for each network; got 2": {"grams": grams[:2]},
        r"regmean: grams\[2\] must be by path of a linear layer's weight, of .* got \['fc1'\]": {
            "grams": [*grams[:2], {"fc1": grams[2]["fc1.weight"]}]
        },
        r"regmean: grams\[0\]\['fc1.weight'\] must be of shape \(8, 8\); got \(2, 2\)": {
            "grams": [{"fc1.weight": jnp.eye(2)}, *grams[1:]]
        },
        r"regmean: grams\[1\]\['fc1.weight'\] must be finite": {
            "grams": [grams[0], {"fc1.weight": jnp.eye(8) * jnp.nan}, grams[2]]
        },
        r"regmean: inputs must be 3 batches, one for each network; got 1": {"inputs": [x]},
        r"regmean: inputs\[1\] must be inputs \[N, ...\] or a pair \(x, y\); got None": {
            "inputs": [x, None, x]
        },
    }
    for message, options in bad.items():
        with pytest.raises(ValueError, match=message):
            af.merge_many(models, None, x, method="regmean", apply_fn=fusionbench_apply, **options)
    with pytest.raises(ValueError, match="this method needs inputs"):
        af.merge_many(models, None, None, method="regmean", apply_fn=fusionbench_apply)
