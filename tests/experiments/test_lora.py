"""Low-rank adapters: what they change, and what training them leaves alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.merging.distillation import DistilOptions
from autofusion_jax.models.registry import build_model
from autofusion_jax.trees import flatten_by_path, num_params
from pipeline.controls import tune_adapters
from pipeline.lora import Adapted, init_adapters, with_adapters
from tests.conftest import inputs_for, params_for

SHORT = DistilOptions(epochs=3, learning_rate=1e-2, batch_size=8)


def test_fresh_adapters_change_nothing(model):
    params, x = params_for(model, 0), inputs_for(model)
    adapters = init_adapters(params, key=jax.random.key(0))
    assert set(adapters) == {path for path, leaf in flatten_by_path(params).items() if leaf.ndim >= 2}
    chex.assert_trees_all_equal(with_adapters(params, adapters), params)
    got = Adapted(model.apply)({"base": params, "adapters": adapters}, x)
    np.testing.assert_array_equal(got, model.apply(params, x))


def test_a_change_of_a_convolution_is_a_matrix_product():
    """Row (i, j, c, d) of a window gets `sum_r down[(i, j, c), r] up[r, d]`."""
    down, up = jax.random.normal(jax.random.key(0), (12, 2)), jax.random.normal(jax.random.key(1), (2, 5))
    changed = with_adapters({"k": jnp.zeros((2, 2, 3, 5))}, {"k": {"down": down, "up": up}})["k"]
    expected = np.einsum("ijcr,rd->ijcd", np.asarray(down).reshape(2, 2, 3, 2), np.asarray(up))
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_only_adapters_are_trained(model):
    """Vectors stay, kernels move by at most the rank, and the count is that of the factors."""
    params, x = params_for(model, 0), inputs_for(model)
    probs = jax.nn.one_hot(jnp.arange(24) % 3, 3)
    tuned, losses, learned = tune_adapters(
        model.perm_spec, params, x, probs, SHORT, rank=2, key=jax.random.key(1)
    )
    assert losses[-1] < losses[0]
    before = flatten_by_path(params)
    expected = 0
    for path, leaf in flatten_by_path(tuned).items():
        change = np.asarray(leaf - before[path])
        if leaf.ndim < 2:
            assert not change.any()
            continue
        rows, columns = leaf.size // leaf.shape[-1], leaf.shape[-1]
        assert change.any() and np.linalg.matrix_rank(change.reshape(rows, columns), tol=1e-4) <= 2
        expected += 2 * (rows + columns)
    assert learned == expected < num_params(params)


@pytest.mark.slow
def test_statistics_are_measured_again():
    net = build_model("resnet", (4, 4, 2), num_classes=3, widths=(4,), depths=(1,))
    params, x = params_for(net, 0), inputs_for(net)
    probs = jax.nn.one_hot(jnp.arange(24) % 3, 3)
    tuned, _, _ = tune_adapters(net.perm_spec, params, x, probs, SHORT, key=jax.random.key(1))
    pairs = zip(jax.tree.leaves(tuned["batch_stats"]), jax.tree.leaves(params["batch_stats"]))
    assert all(np.any(new != old) for new, old in pairs)


def test_rank_out_of_range(mlp):
    with pytest.raises(ValueError, match="init_adapters: rank must be >= 1; got 0"):
        init_adapters(params_for(mlp, 0), rank=0, key=jax.random.key(0))
