"""AdaMerging against FusionBench: given coefficients, and ten steps of Adam; what it learns, bad options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.adaptive.adamerging import add_task_vectors_by
from autofusion_jax.merging.adaptive.adaptation import mean_entropy
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.fusionbench import expect_oracle, fusionbench_apply, fusionbench_networks

ORDER = (
    "fc1.weight", "fc1.bias", "norm.weight", "norm.bias", "fc2.weight", "fc2.bias", "head.weight",
    "conv.weight", "conv.bias",
)  # fmt: skip
"""The recorded order of the leaves; ours is alphabetical."""


@pytest.mark.parametrize("level", ["layer", "task"])
@pytest.mark.parametrize("clamp", [False, True])
def test_given_coefficients(level, clamp):
    base, models = fusionbench_networks()
    recorded = oracle("fusionbench/adamerging_coef.npz")[level]
    columns = (
        recorded[:, [ORDER.index(path) for path in sorted(base)]] if level == "layer" else recorded[:, None]
    )
    coefficients = jnp.asarray(np.clip(columns, 0, 1) if clamp else columns)
    params = add_task_vectors_by(base, models, coefficients)
    expect_oracle(f"fb_adamerging_{level}_clamp{int(clamp)}", params)


def test_ten_steps_of_adam():
    base, models = fusionbench_networks()
    x = jnp.asarray(oracle("fusionbench/inputs.npz")["x"])
    inputs = [x * (1 + 0.1 * number) for number in range(3)]
    result = af.merge_many(
        models, None, None, base=base, apply_fn=fusionbench_apply, method="adamerging", inputs=inputs,
        learning_rate=1e-2, num_steps=10, batch_size=32,
    )  # fmt: skip
    stored = oracle("fusionbench/fb_adamerging_layer_tta10.npz")
    np.testing.assert_allclose(result.history["entropy"], stored["loss"], rtol=1e-5)
    for path, coefficients in result.diagnostics["coefficients"].items():
        if not path.startswith("conv"):  # adds one number to all logits: its gradient is rounding
            np.testing.assert_allclose(coefficients, stored["coef"][-1][:, ORDER.index(path)], atol=2e-5)
            np.testing.assert_allclose(result.params[path], stored[f"merged/{path}"], atol=1e-5)
    assert result.num_learned == 27


@pytest.mark.parametrize("level", ["layer", "task"])
@pytest.mark.slow
def test_it_becomes_surer(mlp, level):
    """Small batches, over many steps; the result is what its coefficients say."""
    base = params_for(mlp, 0)
    models = [jax.tree.map(lambda p, d: p + 0.3 * d, base, params_for(mlp, seed)) for seed in (1, 2, 3)]
    x = inputs_for(mlp, 64)
    result = af.merge_many(
        models, mlp.perm_spec, x, base=base, method="adamerging", level=level, num_steps=200,
        learning_rate=1e-2,
    )  # fmt: skip
    start = af.merge_many(models, mlp.perm_spec, x, base=base, method="task_arithmetic", scale=0.3)
    before, after = (float(mean_entropy(mlp.apply(r.params, x))) for r in (start, result))
    assert after < 0.8 * before
    found = result.diagnostics["coefficients"]
    columns = np.stack(list(found.values()), 1) if level == "layer" else found[:, None]
    rebuilt = add_task_vectors_by(base, models, jnp.asarray(columns))
    for got, expected in zip(jax.tree.leaves(result.params), jax.tree.leaves(rebuilt)):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.slow
def test_clamped_coefficients_stay_inside(mlp):
    base, x = params_for(mlp, 0), inputs_for(mlp)
    models = [params_for(mlp, 1), params_for(mlp, 2)]
    options = {"base": base, "method": "adamerging", "num_steps": 30, "learning_rate": 0.2}
    free, kept = (
        af.merge_many(models, mlp.perm_spec, x, clamp=clamp, **options).diagnostics["coefficients"]
        for clamp in (False, True)
    )
    free, kept = (np.stack(list(found.values())) for found in (free, kept))
    assert free.max() > 1 or free.min() < 0
    assert kept.max() <= 1 and kept.min() >= 0


def test_one_vmap_sweeps_the_coefficients(mlp):
    base, models = params_for(mlp, 0), [params_for(mlp, 1), params_for(mlp, 2)]
    scales = jnp.linspace(0, 1, 5)
    many = jax.vmap(lambda scale: add_task_vectors_by(base, models, jnp.full((2, 1), scale)))(scales)
    for number, scale in enumerate(scales):
        one = add_task_vectors_by(base, models, jnp.full((2, 1), scale))
        for got, expected in zip(jax.tree.leaves(many), jax.tree.leaves(one)):
            np.testing.assert_allclose(got[number], expected, atol=1e-6)


def test_inputs_and_losses_that_cannot_be(mlp):
    models, base, x = [params_for(mlp, 1), params_for(mlp, 2)], params_for(mlp, 0), inputs_for(mlp)
    for options, message in [
        ({"inputs": [jnp.zeros((2, 4, 4))]}, "inputs must be 2 batches, one for each network; got 1"),
        ({"learning_rate": 1e30, "num_steps": 5}, "the entropy must be finite; got nan in step 1. Lower"),
    ]:
        with pytest.raises(ValueError, match=message):
            af.merge_many(models, mlp.perm_spec, x, base=base, method="adamerging", **options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_entropy_of_a_sure_prediction_is_zero_in_every_precision(dtype):
    logits = jnp.array([[60.0, 0.0], [0.0, 60.0]], dtype)
    entropy, slope = jax.value_and_grad(mean_entropy)(logits)
    assert abs(float(entropy)) < 1e-6 and np.isfinite(np.asarray(slope, np.float32)).all()
