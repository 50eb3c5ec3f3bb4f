"""SCE against a recorded output of mergekit, and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.merging.fusionbench import expect_oracle, fusionbench_networks


def merged(base, models, **options):
    return af.merge_many(models, None, None, base=base, method="sce", **options).params


def test_recorded_output():
    base, models = fusionbench_networks()
    expect_oracle("mk_sce", merged(base, models, density=0.5))


def test_by_hand():
    """Entry 0 is alike in both, entry 3 differs least: 1 and 2 are selected, then the signs elected."""
    base = {"w": jnp.array([1.0, 1.0, 1.0, 1.0])}
    models = [
        {"w": base["w"] + jnp.array([5.0, 4.0, 3.0, 1.0])},
        {"w": base["w"] + jnp.array([5.0, 1, -1, 1.5])},
    ]
    weights = np.array([25.0, 2.0]) / 27
    expected = [1, 1 + weights @ [4, 1], 1 + 3, 1]
    np.testing.assert_allclose(merged(base, models, density=0.7)["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("density", [0.4, 1.0])
@pytest.mark.parametrize("num", [2, 3, 7])
def test_networks_alike_are_what_comes_back(num, density):
    """They differ nowhere, so that all entries are as large as the smallest kept."""
    base, params = {"w": jnp.zeros(3)}, {"w": jnp.array([1.0, 0.1, -3.0])}
    np.testing.assert_allclose(merged(base, [params] * num, density=density)["w"], params["w"], rtol=1e-6)


def test_all_that_was_changed_is_kept_at_one():
    base, models = {"w": jnp.zeros(4)}, [{"w": jnp.array([2.0, 1, 0, 0])}, {"w": jnp.array([2.0, 3, 5, 0])}]
    weights = np.array([5.0, 38.0]) / 43
    expected = [2, weights @ [1, 3], 5, 0]
    np.testing.assert_allclose(merged(base, models, density=1.0)["w"], expected, rtol=1e-6)
