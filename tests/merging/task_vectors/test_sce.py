"""SCE against a recorded output of mergekit, and by hand."""

import jax.numpy as jnp
import numpy as np

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


def test_networks_alike_leave_the_base():
    base, params = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    assert merged(base, [params, params])["w"].tolist() == [0, 0, 0]
