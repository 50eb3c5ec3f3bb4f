"""Methods on an encoder-decoder of tokens, whose outputs are `[N, target, vocab]`."""

import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from autofusion_jax.trees import flatten_by_path
from tests.conftest import fine_tuned, inputs_for, params_for

T5 = build_model(
    "t5", (9,), vocab=11, source_len=5, dim=6, depth=1, decoder_depth=1, num_heads=2, head_dim=3, mlp_dim=5,
    num_buckets=8, max_distance=12,
)  # fmt: skip
METHODS = {
    "adamerging": {"num_steps": 2},
    "average": {},
    "task_arithmetic": {},
    "ties": {},
    "tsv": {},
    "wudi": {},
}
SLOW = {"adamerging", "tsv", "wudi"}


@pytest.fixture(scope="module")
def networks():
    """A base and two networks near to it."""
    return fine_tuned(T5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in METHODS]
)
@pytest.mark.slow
def test_merging_fine_tuned_networks(name, networks):
    base, tuned = networks
    merged = af.merge_many(tuned, T5.perm_spec, inputs_for(T5), base=base, method=name, **METHODS[name])
    leaves = [flatten_by_path(params) for params in (merged.params, *tuned)]
    assert all(leaf.shape == leaves[1][path].shape for path, leaf in leaves[0].items())
    assert all(np.isfinite(leaf).all() for leaf in leaves[0].values())
    moved = [
        path for path, leaf in leaves[0].items() if all(np.any(leaf != other[path]) for other in leaves[1:])
    ]
    assert moved == list(leaves[0])


@pytest.mark.slow
def test_regmean_fits_every_projection(networks):
    tuned = networks[1]
    merged = af.merge_many(tuned, T5.perm_spec, inputs_for(T5), method="regmean")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(merged.params))
    kernels = {path for path in flatten_by_path(tuned[0]) if path.endswith("kernel")}
    assert set(merged.diagnostics["fitted"]) == kernels


@pytest.mark.slow
def test_weight_matching_finds_a_permuted_copy():
    params, x = params_for(T5, 0), inputs_for(T5)
    copy = af.apply_perm(T5.perm_spec, params, af.random_perms(T5.perm_spec, jax.random.key(1)))
    merged = af.merge(params, copy, T5.perm_spec, None, method="weight_matching").params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, params)
    np.testing.assert_allclose(T5.apply(merged, x), T5.apply(params, x), atol=1e-5)


@pytest.mark.parametrize("name", ["fisher", "surgery"])
def test_methods_that_need_one_answer_for_each_input(name, networks):
    base, tuned = networks
    with pytest.raises(ValueError, match=rf"^{name}: the networks' output must be one .*; got"):
        af.merge_many(tuned, T5.perm_spec, inputs_for(T5), base=base, method=name)
