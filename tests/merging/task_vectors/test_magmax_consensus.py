"""MagMax and consensus task arithmetic against their formulas in numpy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.task_vectors.consensus import add_consensus
from autofusion_jax.merging.task_vectors.magmax import add_largest
from tests.merging.fusionbench import fusionbench_networks


def in_float64(networks):
    return [{leaf: np.asarray(value, np.float64) for leaf, value in params.items()} for params in networks]


def expect(result, reference):
    base, models = fusionbench_networks()
    origin, *others = in_float64([base, *models])
    for leaf in base:
        deltas = np.stack([params[leaf] - origin[leaf] for params in others])
        np.testing.assert_allclose(result.params[leaf], origin[leaf] + reference(deltas), atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_magmax(scale):
    base, models = fusionbench_networks()

    def reference(deltas):
        return scale * np.take_along_axis(deltas, np.abs(deltas).argmax(0)[None], 0)[0]

    expect(af.merge_many(models, None, None, base=base, method="magmax", scale=scale), reference)


@pytest.mark.parametrize("min_networks", [1, 2, 3])
@pytest.mark.parametrize("selectivity", [0.2, 0.6])
def test_consensus(selectivity, min_networks):
    base, models = fusionbench_networks()
    shares = []

    def reference(deltas):
        masks = [np.abs(d) >= selectivity * np.abs(deltas.sum(0) - d) for d in deltas]
        mask = np.sum(masks, 0) >= min_networks
        shares.append(mask.mean())
        return 0.7 * mask * deltas.sum(0)

    options = {"scale": 0.7, "selectivity": selectivity, "min_networks": min_networks}
    expect(af.merge_many(models, None, None, base=base, method="consensus", **options), reference)
    assert min_networks == 1 or 0 < np.mean(shares) < 1


def test_vmap_over_the_scale():
    base, models = fusionbench_networks()
    scales = jnp.array([0.3, 1.0])
    for fn in (
        lambda scale: add_largest(base, models, scale),
        lambda scale: add_consensus(base, models, scale, 0.4, 2),
    ):
        many = jax.vmap(fn)(scales)
        for leaf, value in fn(scales[1]).items():
            np.testing.assert_allclose(many[leaf][1], value, atol=1e-6)


def test_more_networks_asked_for_than_there_are():
    base, models = fusionbench_networks()
    with pytest.raises(ValueError, match=r"consensus: min_networks must be at most 3.* got 4"):
        af.merge_many(models, None, None, base=base, method="consensus", min_networks=4)
