"""The networks of the FusionBench and mergekit oracles, and what the merged ones must be."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conftest import oracle


def fusionbench_networks():
    """The base and three networks fine-tuned from it: flat dicts of leaves, weights `[out, in]`."""
    stored = oracle("fusionbench/inputs.npz")
    base, *models = (
        {
            key.removeprefix(f"{name}/"): jnp.asarray(v)
            for key, v in stored.items()
            if key.startswith(f"{name}/")
        }
        for name in ("pre", "ft0", "ft1", "ft2")
    )
    return base, models


def fusionbench_apply(params, x):
    """The function of these networks."""
    h = x @ params["fc1.weight"].T + params["fc1.bias"]
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    h = jax.nn.relu(h * params["norm.weight"] + params["norm.bias"])
    h = jax.nn.relu(h @ params["fc2.weight"].T + params["fc2.bias"])
    return h @ params["head.weight"].T + 0.01 * params["conv.weight"].sum()


def expect_oracle(name, params, atol=1e-5):
    """Every leaf that the reference gives is as in `params`."""
    stored = oracle(f"fusionbench/{name}.npz")
    assert stored and set(stored) <= set(params)
    for path, leaf in stored.items():
        np.testing.assert_allclose(params[path], leaf, rtol=0, atol=atol, err_msg=path)
