"""Model Breadcrumbs against recorded outputs of mergekit."""

import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.task_vectors.breadcrumbs import breadcrumbs, select_band
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

LINEAR = af.methods.task_arithmetic(scale=0.5)
TIES = af.methods.ties(density=1.0, merge="sum", weights=(0.5, 0.5, 0.5), variant="mergekit")


@pytest.mark.parametrize(
    ("name", "density", "merge"),
    [
        ("mk_breadcrumbs_d0.2", 0.2, LINEAR),
        ("mk_breadcrumbs_ties_d0.2", 0.2, TIES),
        ("mk_breadcrumbs_ties_d0.7", 0.7, TIES),
    ],
)
def test_recorded_outputs(name, density, merge):
    base, models = fusionbench_networks()
    method = breadcrumbs(density=density, outliers=0.05, merge=merge)
    expect_oracle(name, af.merge_many(models, None, None, base=base, method=method).params)


@pytest.mark.parametrize(
    ("density", "outliers", "kept"),
    [
        (0.5, 0.2, [0, 0, 0, 4, 5, 6, 7, 8, 0, 0]),
        (0.5, 0.0, [0, 0, 0, 0, 0, 6, 7, 8, 9, 10]),
        (0.9, 0.2, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]),  # else too few were left
        (1.0, 0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0.05, 0.2, [0] * 10),
    ],
)
def test_what_is_kept(density, outliers, kept):
    order = jnp.array([3, 1, 9, 0, 5, 7, 2, 8, 6, 4])
    base, params = {"w": jnp.zeros(10)}, {"w": -jnp.arange(1.0, 11)[order]}
    found = jnp.where(select_band(base, params, density, outliers)["w"], params["w"], 0)
    assert found.tolist() == (-jnp.array(kept, float)[order]).tolist()


def test_ties_by_name_elects_and_does_not_trim():
    base = {"w": jnp.zeros(4)}
    models = [{"w": jnp.array([1.0, 2.0, 3.0, 4.0])}, {"w": jnp.array([1.0, -4.0, 3.0, 5.0])}]
    result = af.merge_many(models, None, None, base=base, method="breadcrumbs", density=0.5, merge="ties")
    assert result.params["w"].tolist() == [0, -4, 3, 4.5]


@pytest.mark.parametrize(("density", "outliers"), [(0.1, 0.0), (0.3, 0.2), (0.5, 0.5), (1.0, 0.5)])
def test_of_equal_magnitudes_as_many_are_kept_as_asked_for(density, outliers):
    """Against a stable sort: of equal ones the earlier counts as the larger."""
    rng = np.random.default_rng(0)
    for values in (np.ones(40), np.zeros(40), rng.integers(-2, 3, 40), rng.standard_normal(40)):
        base, params = {"w": jnp.zeros(40)}, {"w": jnp.asarray(values, jnp.float32)}
        kept = int(density * 40)
        dropped = min(int(outliers * 40), 40 - kept)
        expected = np.argsort(-np.abs(np.float32(values)), kind="stable")[dropped : dropped + kept]
        found = select_band(base, params, density, outliers)["w"]
        np.testing.assert_array_equal(np.flatnonzero(found), np.sort(expected))
