"""SMILE against FusionBench, layer by layer; whole networks, checkpoints, bad options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.mixtures.smile import low_rank_experts, smile_apply
from autofusion_jax.trees import flatten_by_path, num_params
from tests.conftest import fine_tuned, inputs_for, oracle, params_for
from tests.merging.fusionbench import fusionbench_apply, fusionbench_networks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fc1_gk2_k3_top1_nodiff", {"rank": 3, "gate_k": 2, "gate": "weight"}),
        ("fc2_gk1_k4_top3", {"rank": 4, "gate_k": 1, "top_k": 3}),
        ("fc2_gk2_k3_top1", {"rank": 3, "gate_k": 2}),
        ("fc2_gk4_k-1_top1", {"rank": None, "gate_k": 4}),
        ("fc2_gk4_k-1_top2", {"rank": None, "gate_k": 4, "top_k": 2}),
    ],
)
def test_one_layer_is_the_reference(name, options):
    stored = oracle(f"fusionbench/fb_smile_{name}.npz")
    layer = name[:3]
    base, *models = (
        {"weight": params[f"{layer}.weight"], "bias": params[f"{layer}.bias"]}
        for params in (fusionbench_networks()[0], *fusionbench_networks()[1])
    )

    def apply_fn(params, x):
        return x @ params["weight"].T + params["bias"]

    x = jnp.asarray(stored["x"])
    result = af.merge_many(models, None, x, base=base, apply_fn=apply_fn, method="smile", **options)
    np.testing.assert_allclose(result.apply_fn(result.params, x), stored["out"], rtol=0, atol=1e-5)
    experts = result.params["experts"]["weight"]
    for number in range(3):
        np.testing.assert_allclose(experts["bias"][number, 0], stored[f"bias_diff/{number}"], atol=1e-6)
        if "down" in experts:
            product = experts["down"][number, 0] @ experts["up"][number, 0]
            np.testing.assert_allclose(product.T, stored[f"delta_lowrank/{number}"], atol=1e-5)


def test_all_experts_of_one_network_are_that_network(model):
    """Whole differences, and the rest the same: the base with its experts is the fine-tuned network."""
    base, models = fine_tuned(model, 1)
    x = inputs_for(model)
    options = {"base": base, "method": "smile", "rank": None, "top_k": 2}
    result = af.merge_many(models * 2, model.perm_spec, x, **options)
    expected = model.apply(models[0], x)
    np.testing.assert_allclose(jax.jit(result.apply_fn)(result.params, x), expected, atol=1e-4)
    assert set(result.params["experts"]) == {p for p in flatten_by_path(base) if p.endswith("kernel")}


def test_the_input_chooses(mlp):
    """Top-1 of two networks: every output depends on which expert each layer took, and some differ."""
    base, models = fine_tuned(mlp, 2)
    x = inputs_for(mlp)
    result = af.merge_many(models, mlp.perm_spec, x, base=base, method="smile", rank=None)
    both = af.merge_many(models, mlp.perm_spec, x, base=base, method="smile", rank=None, top_k=2)
    chex.assert_trees_all_equal(result.params, both.params)
    one, two = (r.apply_fn(r.params, x) for r in (result, both))
    assert float(jnp.abs(one - two).max()) > 1e-3


def test_a_smaller_rank_is_smaller(mlp):
    base, models = fine_tuned(mlp, 3)
    x = inputs_for(mlp)
    sizes = {}
    for rank in (1, 3, None):
        result = af.merge_many(models, mlp.perm_spec, x, base=base, method="smile", rank=rank)
        sizes[rank] = result.diagnostics["num_params"]
        assert sizes[rank] == num_params(result.params)
    assert sizes[1] < sizes[3] < sizes[None]


@pytest.mark.slow
def test_it_is_saved_and_loaded(model, tmp_path):
    """Bit for bit; the function made again gives the same outputs, under jit, at another batch size."""
    base, models = fine_tuned(model, 3)
    x = inputs_for(model)
    result = af.merge_many(models, model.perm_spec, x[:5], base=base, method="smile", rank=2, top_k=2)
    af.save(tmp_path / "smile", result.params)
    params = af.load(tmp_path / "smile").params
    chex.assert_trees_all_equal(params, jax.tree.map(np.asarray, result.params))
    outputs = jax.jit(smile_apply(model.apply, top_k=2))(params, x)
    np.testing.assert_array_equal(outputs, jax.jit(result.apply_fn)(result.params, x))
    np.testing.assert_allclose(outputs, result.apply_fn(result.params, x), atol=1e-5)


def test_what_nobody_trained_stays(mlp):
    """A layer that is the base's in all networks gets no experts; other leaves are averaged."""
    base, models = fusionbench_networks()
    models = [{**params, "fc2.weight": base["fc2.weight"]} for params in models]
    x = jnp.asarray(oracle("fusionbench/inputs.npz")["x"])
    result = af.merge_many(models, None, x, base=base, apply_fn=fusionbench_apply, method="smile")
    assert set(result.params["experts"]) == {"fc1.weight", "head.weight"}
    network = result.params["network"]
    np.testing.assert_array_equal(network["fc1.weight"], base["fc1.weight"])
    np.testing.assert_array_equal(network["fc1.bias"], base["fc1.bias"])
    mean = np.mean([params["norm.weight"] for params in models], 0)
    np.testing.assert_allclose(network["norm.weight"], mean, atol=1e-6)


def test_networks_that_are_the_base_are_refused(mlp):
    base = params_for(mlp, 0)
    with pytest.raises(ValueError, match="smile: linear layers must be changed by fine-tuning"):
        af.merge_many([base, base], mlp.perm_spec, inputs_for(mlp), base=base, method="smile")


@pytest.mark.parametrize("align", [None, "weight_matching"])
def test_no_correction_follows(mlp, align):
    base, models = fine_tuned(mlp, 3)
    options = {"base": base, "method": "smile", "align": align, "correction": "repair"}
    with pytest.raises(ValueError, match="None for an ensemble, or for another program"):
        af.merge_many(models, mlp.perm_spec, inputs_for(mlp), **options)


@pytest.mark.parametrize("gate", ["delta", "weight"])
def test_singular_values_of_zero_open_no_gate(gate):
    """Their vectors are arbitrary: an input that is like one of them is like nothing that was learned."""
    base = jnp.zeros((1, 4, 3))
    tuned = jnp.stack([base, base.at[0, 0, 0].set(2.0)])
    found = low_rank_experts(base, tuned, rank=2, gate_k=3, gate=gate)["gate"]
    assert not found[0].any()
    np.testing.assert_allclose(np.abs(found[1, 0]), np.eye(4)[:, :1] * np.eye(3)[:1], atol=1e-6)
