"""Depth up-scaling: the deeper network is the one that is built deeper; gaps, lists, what does not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.mixtures.depth_upscaling import parse_layers, solar_layers, upscaled_apply
from tests.conftest import inputs_for, params_for
from tests.merging.mixtures.networks import RESNET, VIT, expect_saved, resnet, vit


def upscaled(model, params, **options):
    x = inputs_for(model)
    return af.merge_many([params], None, x, apply_fn=model.apply, method="depth_upscaling", **options)


@pytest.mark.parametrize(
    ("layers", "order"),
    [(None, (0, 1, 2, 0, 1, 2)), ("0-1,1-2", (0, 1, 1, 2)), ([2], (2,)), ("0,2,1,0,2", (0, 2, 1, 0, 2))],
)
@pytest.mark.slow
def test_a_deeper_vit_runs_the_result_as_it_is(layers, order, tmp_path):
    params, x = params_for(VIT, 0), inputs_for(VIT)
    result = upscaled(VIT, params, layers=layers)
    assert result.diagnostics["layers"] == order
    deeper = vit(len(order))
    chex.assert_trees_all_equal_shapes_and_dtypes(
        result.params, jax.eval_shape(deeper.init, jax.random.key(0))
    )
    for number, index in enumerate(order):
        got, expected = (p["params"][f"block_{i}"] for p, i in ((result.params, number), (params, index)))
        chex.assert_trees_all_equal(got, expected)
    outputs = result.apply_fn(result.params, x)
    np.testing.assert_allclose(outputs, jax.jit(deeper.apply)(result.params, x), atol=1e-5)
    assert np.abs(outputs - jax.jit(VIT.apply)(params, x)).max() > 1e-3
    again = upscaled_apply(VIT.apply, params, layers=order)
    expect_saved(result, VIT, again, tmp_path / "saved")


@pytest.mark.slow
def test_the_new_blocks_can_be_trained_apart():
    """A block that stands twice has leaves of its own each time."""
    params, x = params_for(VIT, 0), inputs_for(VIT)
    result = upscaled(VIT, params, layers="0-1,1-2")
    grads = jax.jit(jax.grad(lambda p: jnp.sum(result.apply_fn(p, x) ** 2)))(result.params)["params"]
    kernels = [grads[f"block_{i}"]["mlp_0"]["kernel"] for i in (1, 2)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


@pytest.mark.slow
def test_what_stands_between_blocks_goes_along():
    """ResNet's blocks end before their ReLU; a deeper stage is what `build_model` makes of it."""
    params, x = params_for(RESNET, 0), inputs_for(RESNET)
    for pattern, layers, depths in (
        ("*stage0_block{}/*", "0-1,0-1,1", (5, 2)),
        ("*stage1_block{}/*", "0-1,1", (2, 3)),
    ):
        result = upscaled(RESNET, params, layers=layers, blocks=pattern)
        expected = jax.jit(resnet(depths).apply)(result.params, x)
        np.testing.assert_allclose(result.apply_fn(result.params, x), expected, atol=1e-4)


def test_lists_of_blocks_stay_lists():
    def apply_fn(params, x):
        for block in params["blocks"]:
            x = jnp.tanh(x @ block["w"])
        return x @ params["head"]

    weights = jax.random.normal(jax.random.key(0), (12, 3, 3))
    params = {"blocks": [{"w": w} for w in weights[:11]], "head": weights[11]}
    x = jnp.ones((2, 3))
    result = af.merge_many(
        [params],
        None,
        x,
        apply_fn=apply_fn,
        method="depth_upscaling",
        layers="0-10,9-10",
        blocks="blocks/{}/*",
    )
    assert isinstance(result.params["blocks"], list) and len(result.params["blocks"]) == 13
    np.testing.assert_array_equal(result.params["blocks"][11]["w"], weights[9])
    np.testing.assert_allclose(result.apply_fn(result.params, x), apply_fn(result.params, x), atol=1e-6)


def test_integer_keys_stay_integers():
    params = {"block": {0: jnp.ones(1), 1: jnp.zeros(1)}}
    result = af.merge_many([params], None, None, method="depth_upscaling", layers="1,0,1", blocks="block/{}")
    assert {number: float(leaf[0]) for number, leaf in result.params["block"].items()} == {0: 0, 1: 1, 2: 0}
    assert result.apply_fn is None


def test_layers_are_read_not_run():
    assert parse_layers("range(0,3), 1-2 ,7") == (0, 1, 2, 1, 2, 7)
    assert parse_layers([0, "1-2", "range(5,7)"]) == (0, 1, 2, 5, 6)
    assert solar_layers(32) == (*range(24), *range(8, 32))


def test_bad_options():
    for options, message in [
        ({"layers": "0-3"}, r"layers must be indices in \[0, 3\), the network's blocks; got \[0, 1, 2, 3\]"),
        ({"layers": "__import__('os')"}, "layers must be indices, or strings such as"),
        ({"layers": "2-1"}, "layers must be indices, or strings such as .*; got '2-1'"),
        ({"layers": [-1]}, "layers must be indices, or strings such as .*; got -1"),
        ({"layers": "1,,2"}, "layers must be indices, or strings such as"),
        ({"layers": []}, r"layers must be one or more indices; got \[\]"),
        ({"blocks": "*block_0/*"}, "blocks must be a pattern with one {}"),
        ({"blocks": "*layer_{}/*"}, "blocks must be a pattern that fits paths .* Paths: params/block_0"),
        ({"blocks": "*/attention/{}/kernel"}, "got block 'key', which makes more than one value"),
    ]:
        with pytest.raises(ValueError, match=f"depth_upscaling: .*{message}"):
            upscaled(VIT, params_for(VIT, 0), **options)


def test_blocks_that_do_not_fit(mlp):
    params = params_for(mlp, 0)
    message = (
        r"layers must be blocks that fit one another, with \[24, 12\] here; got block '1' with \[24, 10\]"
    )
    with pytest.raises(ValueError, match=message):
        upscaled(mlp, params, layers="0,1,1", blocks="*dense_{}/*")


def side_by_side(params, x):
    return x @ params["block_0"] + x @ params["block_1"] @ params["block_2"]


def backwards(params, x):
    return x @ params["block_2"] @ params["block_1"] @ params["block_0"]


def skipping(params, x):
    first = x @ params["block_0"]
    return jax.nn.relu(first) @ params["block_1"] @ params["block_2"] + first


@pytest.mark.parametrize(
    ("apply_fn", "message"),
    [
        (side_by_side, "got block '0', which makes more than one value that is used before block"),
        (backwards, "blocks must be a chain, .*; got block '0', which the next one does not read"),
        (skipping, "blocks must be a chain, .*; got block '2', past which block '0' is read"),
    ],
)
def test_blocks_that_are_no_chain(apply_fn, message):
    params = {f"block_{i}": jnp.eye(2) for i in range(3)}
    options = {"apply_fn": apply_fn, "method": "depth_upscaling", "blocks": "block_{}"}
    with pytest.raises(ValueError, match=message):
        af.merge_many([params], None, jnp.ones((1, 2)), **options)
