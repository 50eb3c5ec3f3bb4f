"""The networks of the FusionBench and mergekit oracles, and what the merged ones must be."""

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


def expect_oracle(name, params, atol=1e-5):
    """Every leaf that the reference gives is as in `params`."""
    stored = oracle(f"fusionbench/{name}.npz")
    assert stored and set(stored) <= set(params)
    for path, leaf in stored.items():
        np.testing.assert_allclose(params[path], leaf, rtol=0, atol=atol, err_msg=path)
