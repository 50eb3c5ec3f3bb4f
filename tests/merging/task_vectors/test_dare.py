"""DARE against recorded outputs of FusionBench and mergekit, with their masks."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.task_vectors.dare import dare, draw_mask, drop_and_rescale
from tests.conftest import oracle
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

TIES = {"density": 0.2, "scale": 0.5, "merge": "sum", "variant": "fusionbench"}


@pytest.mark.parametrize(
    ("name", "merge", "variant"),
    [
        ("fb_dare_ta_sp0.5", af.methods.task_arithmetic(scale=0.3), "paper"),
        ("fb_dare_ties_sp0.5", af.methods.ties(**TIES), "paper"),
        ("mk_dare_linear_sp0.5_w0.3", af.methods.task_arithmetic(scale=0.3), "mergekit"),
    ],
)
def test_recorded_outputs(name, merge, variant, monkeypatch):
    base, models = fusionbench_networks()
    stored = oracle("fusionbench/fb_dare_ta_sp0.5_masks.npz")
    masks = iter([{leaf: jnp.asarray(stored[f"ft{number}/{leaf}"]) for leaf in base} for number in range(3)])
    monkeypatch.setattr(sys.modules[dare.__module__], "draw_mask", lambda *_: next(masks))
    method = dare(density=0.5, merge=merge, variant=variant)
    expect_oracle(name, af.merge_many(models, None, None, base=base, method=method).params)


def test_entries_are_dropped_at_random_and_rescaled():
    base, models = {"w": jnp.zeros(20_000)}, [{"w": jnp.ones(20_000)}, {"w": jnp.ones(20_000)}]
    one = af.methods.task_arithmetic(scale=1.0, weights=(1.0, 0.0))
    keys = jax.random.split(jax.random.key(1), 2)
    first, second = (
        np.asarray(r.params["w"])
        for r in af.merge_repeats(
            models, None, None, base=base, method="dare", density=0.25, merge=one, keys=keys
        )
    )
    assert set(np.unique(first)) == {0, 4}
    assert abs((first > 0).mean() - 0.25) < 0.02  # 6.5 standard deviations
    assert (first != second).any()


def test_networks_and_leaves_have_masks_of_their_own():
    params = {"a": jnp.zeros(99), "b": jnp.zeros(99)}
    mask = draw_mask(params, 0.5, jax.random.key(0))
    assert (mask["a"] != mask["b"]).any()
    base, models = {"w": jnp.zeros(99)}, [{"w": jnp.ones(99)}] * 2
    merged = af.merge_many(models, None, None, base=base, method="dare").params["w"]
    assert len(np.unique(merged)) == 3  # none, one, both


def test_density_one_is_the_merge_alone():
    base, models = fusionbench_networks()
    expected = af.merge_many(models, None, None, base=base, method="ties")
    got = af.merge_many(models, None, None, base=base, method="dare", density=1.0, merge="ties")
    for leaf, value in expected.params.items():
        np.testing.assert_allclose(got.params[leaf], value, atol=1e-6)


def test_nothing_kept_is_nothing_rescaled():
    base, params, mask = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, {"w": jnp.zeros(2, bool)}
    assert drop_and_rescale(base, params, mask, 0.5, variant="mergekit")["w"].tolist() == [0, 0]


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e36])
def test_what_is_left_is_rescaled_at_any_size(size):
    """mergekit's code rescales nothing where sums of magnitudes are below 1e-7."""
    base, params = {"w": jnp.zeros(4)}, {"w": size * jnp.array([1.0, 2.0, 3.0, 2.0])}
    mask = {"w": jnp.array([True, True, False, True])}
    found = drop_and_rescale(base, params, mask, 0.5, variant="mergekit")["w"]
    np.testing.assert_allclose(np.float64(found) / size, np.array([1.0, 2, 0, 2]) * 8 / 5, rtol=1e-5)
