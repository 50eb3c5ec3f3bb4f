"""Where one run of weight matching finds nothing, and what several runs or activations find."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import oracle, oracle_network, spec_from_oracle

BLOCKS = 6


def residual_mlp(params, x):
    h = x @ params["stem"]
    for block in range(BLOCKS):
        h = h + jnp.maximum(h @ params[f"up_{block}"], 0) @ params[f"down_{block}"]
    return h @ params["head"]


@pytest.fixture(scope="module")
def narrow():
    """A stream of 64 units that only 3 inputs and 10 outputs anchor, and its planted copies."""
    shapes = {"stem": (3, 64), "head": (64, 10)}
    for block in range(BLOCKS):
        shapes |= {f"up_{block}": (64, 128), f"down_{block}": (128, 64)}
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.standard_normal(shape) * np.sqrt(2 / shape[0]), jnp.float32)
        for name, shape in shapes.items()
    }
    x = jnp.asarray(rng.standard_normal((256, 3)), jnp.float32)
    return af.infer_perm_spec(residual_mlp, params, x[:2]), params, x


def recovered(spec, params, seed, x=None, **options):
    """The share of units matched as planted, and the result."""
    planted = af.random_perms(spec, jax.random.key(100 + seed))
    copy = af.apply_perm(spec, params, planted)
    result = af.merge(params, copy, spec, x, method="weight_matching", key=jax.random.key(seed), **options)
    right = [np.asarray(result.perms[name] == perm) for name, perm in af.invert(spec, planted).items()]
    return np.concatenate(right).mean(), result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_one_run_finds_all_or_nothing_and_several_find_all(narrow, seed):
    spec, params, _ = narrow
    share, result = recovered(spec, params, seed, num_restarts=12)
    objectives = result.diagnostics["objectives"]
    assert share == 1 and len(objectives) == 12
    best = sum(float(jnp.vdot(leaf, leaf)) for leaf in params.values())
    np.testing.assert_allclose(result.diagnostics["objective"], best, rtol=1e-5)
    found = np.isclose(objectives, best, rtol=1e-5)
    assert 0 < found.sum() < 12
    assert max(np.array(objectives)[~found]) < 0.3 * best


def test_a_single_run_finds_nothing(narrow):
    spec, params, _ = narrow
    assert min(recovered(spec, params, seed)[0] for seed in range(3)) < 0.05


def test_a_start_from_activations_finds_all_at_once(narrow):
    spec, params, x = narrow
    share, result = recovered(spec, params, 0, x, start="activation")
    assert share == 1 and result.diagnostics["sweeps"] <= 2


@pytest.mark.slow
def test_planted_copies_of_the_narrow_resnet_are_found():
    """git-re-basin's ResNet20 at width 8: its 3 x 3 kernels anchor every stream well enough."""
    stored = oracle("resnet20_w8_indep.npz")
    params = oracle_network(stored, "a")
    spec = spec_from_oracle(json.loads(str(stored["spec_json"])), params)
    assert [recovered(spec, params, seed)[0] for seed in range(3)] == [1.0] * 3
