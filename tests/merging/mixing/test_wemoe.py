"""WEMoE against FusionBench: recorded outputs by given routers; what it learns, bad options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.adaptive.entropy import mean_entropy
from autofusion_jax.merging.mixing.wemoe import weight_ensemble, wemoe_apply
from autofusion_jax.merging.task_vectors.task_arithmetic import add_task_vectors
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.fusionbench import fusionbench_networks
from tests.merging.mixing.networks import CASES, VIT, expect_saved

MLP = "*block_{}/mlp_*"


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


def merged(model, pattern, **options):
    base, models = tuned(model)
    options = {"num_steps": 3, "blocks": pattern, **options}
    return af.merge_many(
        models, None, inputs_for(model), base=base, apply_fn=model.apply, method="wemoe", **options
    )


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("case", CASES)
def test_routers_that_say_one_number_are_task_arithmetic(case, depth):
    """As all do before they are trained, but for weights near 0."""
    model, pattern = CASES[case]
    base, models = tuned(model)
    result = merged(model, pattern, depth=depth, num_steps=1, scale=0.4)
    for router in result.params["router"].values():
        assert (set(router) == {"bias"}) if depth == 0 else (len(router) == depth)
    zeros = jax.tree.map(jnp.zeros_like, result.params["router"])
    routers = {name: constant(router, 0.4) for name, router in zeros.items()}
    x = inputs_for(model)
    got = result.apply_fn({**result.params, "router": routers}, x)
    expected = jax.jit(model.apply)(add_task_vectors(base, models, 0.4), x)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def constant(router, value):
    last = router if "bias" in router else router[f"layer_{len(router) - 1}"]
    last["bias"] = jnp.full_like(last["bias"], value)
    return router


@pytest.mark.parametrize("case", CASES)
def test_a_sure_router_gives_a_network_its_own_blocks(case):
    """Coefficient 1 for one network, 0 for the other: its blocks, bit for bit but for rounding."""
    model, pattern = CASES[case]
    base, models = tuned(model)
    result = merged(model, pattern, depth=0)
    routers = {name: {"bias": jnp.array([0.0, 1.0])} for name in result.params["router"]}
    rest = add_task_vectors(base, models, 0.3)
    expected = jax.tree.map(
        lambda stacked, own, mean: mean if stacked.shape == own.shape else own,
        result.params["network"], models[1], rest,
    )  # fmt: skip
    x = inputs_for(model)
    got = result.apply_fn({**result.params, "router": routers}, x)
    np.testing.assert_allclose(got, jax.jit(model.apply)(expected, x), atol=1e-4)


def test_samples_have_weights_of_their_own():
    """What is run beside an input makes no difference; in FusionBench's form it does."""
    x = inputs_for(VIT)
    for variant, same in (("paper", True), ("fusionbench", False)):
        result = merged(VIT, MLP, variant=variant)
        routers = jax.tree.map(lambda leaf: 20 * leaf, result.params["router"])
        params = {**result.params, "router": routers}
        together = result.apply_fn(params, x)
        alone = jnp.concatenate([result.apply_fn(params, one[None]) for one in x])
        gap = float(np.abs(together - alone).max())
        assert gap < 1e-4 if same else gap > 1e-3, (variant, gap)


@pytest.mark.parametrize("variant", ["paper", "fusionbench"])
def test_it_becomes_surer(mlp, variant):
    """Routers learn, the network does not; with inputs of each network the entropies add up."""
    base, models = tuned(mlp, 3)
    x = inputs_for(mlp, 64)
    options = {
        "base": base, "apply_fn": mlp.apply, "method": "wemoe", "blocks": "*dense_{}/*", "num_steps": 150,
        "learning_rate": 1e-2, "variant": variant,
    }  # fmt: skip
    result = af.merge_many(models, None, x, **options)
    start = mean_entropy(mlp.apply(add_task_vectors(base, models, 0.3), x))
    assert float(mean_entropy(result.apply_fn(result.params, x))) < 0.8 * float(start)
    assert result.history["entropy"].shape == (150,)
    chex.assert_trees_all_equal(
        result.params["network"], weight_ensemble(base, models, 0.3, blocks="*dense_{}/*")
    )
    assert result.num_learned == sum(leaf.size for leaf in jax.tree.leaves(result.params["router"]))
    three = af.merge_many(
        models, None, None, **options | {"inputs": [x, x, x], "batch_size": 64, "num_steps": 1}
    )
    one = af.merge_many(models, None, x, **options | {"batch_size": 64, "num_steps": 1})
    np.testing.assert_allclose(three.history["entropy"], 3 * one.history["entropy"], rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    for variant in ("paper", "fusionbench"):
        result = merged(VIT, MLP, variant=variant)
        again = wemoe_apply(VIT.apply, variant=variant)
        expect_saved(result, VIT, again, tmp_path / variant)


def test_one_vmap_sweeps_the_scale():
    base, models = tuned(VIT)
    scales = jnp.array([0.1, 0.5])
    many = jax.vmap(lambda scale: weight_ensemble(base, models, scale))(scales)
    for number in range(2):
        one = weight_ensemble(base, models, float(scales[number]))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=number: leaf[i], many), one, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fusion"}, "unknown variant 'fusion'. Did you mean 'fusionbench'"),
        ({"depth": -1}, "depth must be >= 0, the layers of a router; got -1"),
        ({"scale": 0.0}, "scale must be > 0; got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"blocks": "nothing"}, "blocks must be a pattern that fits paths of leaves"),
        ({"inputs": [jnp.zeros((2, 8, 8, 2))]}, "inputs must be 2 batches, one for each network; got 1"),
        ({"learning_rate": 1e30, "num_steps": 5}, "the entropy must be finite; got nan in step"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=f"wemoe: .*{message}"):
        merged(VIT, **{"pattern": MLP, **({} if "blocks" not in options else {"pattern": options["blocks"]}),
                       **{k: v for k, v in options.items() if k != "blocks"}})  # fmt: skip
