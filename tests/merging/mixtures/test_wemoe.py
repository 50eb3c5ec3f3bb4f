"""WEMoE against FusionBench: recorded outputs by given routers; what it learns, bad options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.adaptive.adaptation import mean_entropy
from autofusion_jax.merging.mixtures.module_blocks import group_paths
from autofusion_jax.merging.mixtures.wemoe import run_router, weight_ensemble, wemoe_apply
from autofusion_jax.merging.task_vectors.task_arithmetic import add_task_vectors
from autofusion_jax.trees import flatten_by_path
from tests.conftest import MODELS, inputs_for, oracle, params_for
from tests.merging.fusionbench import fusionbench_networks
from tests.merging.mixtures.networks import CASES, VIT, cases, expect_saved

MLP, DENSE = MODELS["mlp"], "*dense_{}/*"


def recorded_apply(params, x):
    """The recorded block: dense, exact GELU, dense back to the 8 features."""
    hidden = jax.nn.gelu(x @ params["fc1.weight"].T + params["fc1.bias"], approximate=False)
    return hidden @ params["fc2.weight"][:8].T + params["fc2.bias"][:8]


@pytest.mark.parametrize("variant", ["paper", "fusionbench"])
@pytest.mark.parametrize("depth", [0, 1])
def test_recorded_outputs(depth, variant):
    stored = oracle(f"fusionbench/fb_wemoe_depth{depth}_reduce{int(variant == 'fusionbench')}.npz")
    base, models = fusionbench_networks()
    router = {"bias": jnp.asarray(stored["gate/weight"])} if depth == 0 else {
        "layer_0": {
            "kernel": jnp.asarray(stored["gate/fc.weight"].T), "bias": jnp.asarray(stored["gate/fc.bias"])
        }
    }  # fmt: skip
    network = weight_ensemble(base, models, 0.3, blocks="fc*")
    apply = wemoe_apply(recorded_apply, blocks="fc*", variant=variant)
    got = apply({"network": network, "router": {"all": router}}, jnp.asarray(stored["x"]))
    np.testing.assert_allclose(got, stored["out"], rtol=0, atol=1e-5)


def tuned(model, num=2):
    """A base, and networks fine-tuned from it."""
    base = params_for(model, 0)
    models = [
        jax.tree.map(lambda p, d: p + 0.3 * d, base, params_for(model, seed + 1)) for seed in range(num)
    ]
    return base, models


def merged(model, **options):
    base, models = tuned(model)
    options = {"num_steps": 3, "blocks": DENSE if model is MLP else "*block_{}/mlp_*", **options}
    return af.merge_many(
        models, None, inputs_for(model), base=base, apply_fn=model.apply, method="wemoe", **options
    )


@cases
@pytest.mark.slow
def test_the_same_coefficients_for_all_inputs(case):
    """The scale of the rest: task arithmetic. 1 for one network, 0 for the other: its own blocks."""
    model, pattern = CASES[case]
    base, models = tuned(model)
    rest, network = add_task_vectors(base, models, 0.4), weight_ensemble(base, models, 0.4, blocks=pattern)
    own = jax.tree.map(
        lambda leaf, mean, mine: mine if leaf.ndim > mean.ndim else mean, network, rest, models[1]
    )
    apply, plain, x = wemoe_apply(model.apply, blocks=pattern), jax.jit(model.apply), inputs_for(model, 6)
    names = group_paths("test", flatten_by_path(base), pattern)
    for coefficients, expected in (([0.4, 0.4], rest), ([0.0, 1.0], own)):
        router = {name: {"bias": jnp.array(coefficients)} for name in names}
        got = apply({"network": network, "router": router}, x)
        np.testing.assert_allclose(got, plain(expected, x), atol=1e-4)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.slow
def test_depths(depth):
    """A router has so many layers, and starts at the scale but for weights near 0."""
    result = merged(MLP, depth=depth, num_steps=1, scale=0.4, learning_rate=1e-12)
    for name, size in (("0", 16), ("1", 12)):
        router = result.params["router"][name]
        if depth == 0:
            assert set(router) == {"bias"}
        else:
            shapes = [router[f"layer_{i}"]["kernel"].shape for i in range(depth)]
            assert len(router) == depth and shapes == [(size, size)] * (depth - 1) + [(size, 2)]
            assert 0 < float(jnp.std(router["layer_0"]["kernel"])) < 0.02
        gate = run_router(router, jax.random.normal(jax.random.key(0), (7, 4, size)))
        assert gate.shape == (7, 4, 2)
        np.testing.assert_allclose(gate, 0.4, atol=0.2)


def test_a_router_by_hand():
    keys = jax.random.split(jax.random.key(0), 5)
    w, b, v, c, x = (jax.random.normal(k, s) for k, s in zip(keys, ((4, 4), (4,), (4, 2), (2,), (3, 4))))
    router = {"layer_0": {"kernel": w, "bias": b}, "layer_1": {"kernel": v, "bias": c}}
    expected = np.maximum(np.asarray(x) @ np.asarray(w) + np.asarray(b), 0) @ np.asarray(v) + np.asarray(c)
    np.testing.assert_allclose(run_router(router, x), expected, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "fusionbench"])
@pytest.mark.slow
def test_samples_have_weights_of_their_own(variant):
    """What is run beside an input makes no difference; in FusionBench's form it does."""
    base, models = tuned(VIT)
    kernels = jax.random.normal(jax.random.key(0), (3, 8, 2))
    router = {
        str(i): {"layer_0": {"kernel": kernel, "bias": jnp.zeros(2)}} for i, kernel in enumerate(kernels)
    }
    params = {"network": weight_ensemble(base, models, 0.3), "router": router}
    apply, x = wemoe_apply(VIT.apply, variant=variant), inputs_for(VIT, 6)
    alone = jnp.concatenate([apply(params, one[None]) for one in x])
    gap = float(np.abs(apply(params, x) - alone).max())
    assert gap < 1e-4 if variant == "paper" else gap > 1e-3


@pytest.mark.parametrize("variant", ["paper", "fusionbench"])
@pytest.mark.slow
def test_it_becomes_surer(variant):
    """Routers learn, the network does not; with inputs of each network the entropies add up."""
    base, models = tuned(MLP, 3)
    x = inputs_for(MLP, 64)
    options = {
        "base": base, "apply_fn": MLP.apply, "method": "wemoe", "blocks": DENSE, "num_steps": 150,
        "learning_rate": 1e-2, "variant": variant,
    }  # fmt: skip
    result = af.merge_many(models, None, x, **options)
    start = mean_entropy(MLP.apply(add_task_vectors(base, models, 0.3), x))
    assert float(mean_entropy(result.apply_fn(result.params, x))) < 0.8 * float(start)
    assert result.history["entropy"].shape == (150,)
    chex.assert_trees_all_equal(result.params["network"], weight_ensemble(base, models, 0.3, blocks=DENSE))
    assert result.num_learned == sum(leaf.size for leaf in jax.tree.leaves(result.params["router"]))
    three = af.merge_many(
        models, None, None, **options | {"inputs": [x, x, x], "batch_size": 64, "num_steps": 1}
    )
    one = af.merge_many(models, None, x, **options | {"batch_size": 64, "num_steps": 1})
    np.testing.assert_allclose(three.history["entropy"], 3 * one.history["entropy"], rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "variant"),
    [pytest.param(VIT, "paper", marks=pytest.mark.slow), (MLP, "paper"), (MLP, "fusionbench")],
)
@pytest.mark.slow
def test_saved_and_loaded(model, variant, tmp_path):
    options = {} if model is VIT else {"blocks": DENSE}
    again = wemoe_apply(model.apply, variant=variant, **options)
    expect_saved(merged(model, variant=variant), model, again, tmp_path / "saved")


@pytest.mark.slow
def test_one_vmap_sweeps_the_scale():
    base, models = tuned(VIT)
    scales = jnp.array([0.1, 0.5])
    many = jax.vmap(lambda scale: weight_ensemble(base, models, scale))(scales)
    for number in range(2):
        one = weight_ensemble(base, models, float(scales[number]))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=number: leaf[i], many), one, atol=1e-6)


def test_what_does_not_fit_the_networks_and_losses_that_cannot_be():
    for options, message in [
        ({"blocks": "nothing"}, "blocks must be a pattern that fits paths of leaves"),
        ({"inputs": [jnp.zeros((2, 4, 4))]}, "inputs must be 2 batches, one for each network; got 1"),
        ({"learning_rate": 1e30, "num_steps": 5}, "the entropy must be finite; got nan in step"),
    ]:
        with pytest.raises(ValueError, match=f"wemoe: .*{message}"):
            merged(MLP, **options)
