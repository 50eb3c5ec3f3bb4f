"""What the tests against recorded outputs of FusionBench and mergekit share."""

import chex
import jax.numpy as jnp
import numpy as np

from tests.conftest import oracle


def fusionbench_networks():
    """The base and the three networks fine-tuned from it: flat dicts of leaves, weights `[out, in]`."""
    stored = oracle("fusionbench/inputs.npz")

    def network(prefix):
        return {
            key.removeprefix(prefix): jnp.asarray(value)
            for key, value in stored.items()
            if key.startswith(prefix)
        }

    return network("pre/"), [network(f"ft{number}/") for number in range(3)]


def expect_oracle(name, params):
    """Compare a flat dict of leaves with `tests/oracles/fusionbench/<name>.npz`."""
    expected = oracle(f"fusionbench/{name}.npz")
    chex.assert_trees_all_equal_shapes_and_dtypes(dict(params), expected)
    for key, value in expected.items():
        np.testing.assert_allclose(params[key], value, atol=1e-5, err_msg=f"{name}: {key}")
