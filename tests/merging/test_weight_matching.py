import json

import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.matching.weight_matching import match_weights, unit_similarity
from tests.conftest import inputs_for, oracle, oracle_network, params_for, spec_from_oracle

FILES = ["mlp_20_32_32_10_indep", "mlp_20_32_32_10_planted", "conv_3_8_16_16_indep"]


def load_case(name):
    stored = oracle(f"{name}.npz")
    a, b = oracle_network(stored, "a"), oracle_network(stored, "b")
    spec = spec_from_oracle(json.loads(str(stored["spec_json"])), a)
    order = [
        [list(spec.groups).index(str(stored["perm_names"][i])) for i in sweep]
        for sweep in stored["visit_order"]
    ]
    return stored, spec, a, b, np.array(order)


@pytest.mark.parametrize("name", FILES)
def test_replays_the_reference(name):
    stored, spec, a, b, order = load_case(name)
    perms, sweeps, _ = match_weights(spec, a, b, order)
    for group in spec.groups:
        np.testing.assert_array_equal(perms[group], stored[f"perm:{group}"])
    assert sweeps <= int(stored["iterations"])
    permuted = af.apply_perm(spec, b, perms)
    for path, leaf in permuted.items():
        np.testing.assert_array_equal(leaf, stored[f"pb:{path}"])
    objective = sum(float(np.sum(np.float64(a[p]) * np.float64(permuted[p]))) for p in a)
    np.testing.assert_allclose(objective, stored["objective_final"], rtol=1e-6)


def test_planted_permutations_are_found_from_any_order():
    stored, spec, a, b, _ = load_case("mlp_20_32_32_10_planted")
    for seed in range(3):
        result = af.merge(a, b, spec, None, method="weight_matching", key=jax.random.key(seed))
        for group in spec.groups:
            np.testing.assert_array_equal(result.perms[group], stored[f"true:{group}"])
        assert result.diagnostics["converged"]


def test_similarity_by_hand(vgg):
    a, b, spec = params_for(vgg, 0), params_for(vgg, 1), vgg.perm_spec
    perms = af.random_perms(spec, jax.random.key(0))
    got = unit_similarity(spec, a, b, perms, "conv_1")
    pa, pb = a["params"], af.apply_perm(spec, b, perms)["params"]
    expected = np.einsum("hwia,hwib->ab", pa["conv_1"]["kernel"], pb["conv_1"]["kernel"])
    expected += np.outer(pa["conv_1"]["bias"], pb["conv_1"]["bias"])
    heads = [p["head"]["kernel"].reshape(-1, 6, 3) for p in (pa, pb)]
    expected += np.einsum("pac,pbc->ab", *heads)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_similarity_of_nested_groups():
    from tests.symmetry.test_transform import CASES

    spec, params, _ = CASES["attention"]
    got = unit_similarity(spec, params, params, af.identity_perms(spec), "units")
    q, k, o = (np.asarray(params[n]) for n in ("q", "k", "o"))
    h = 1
    rows = [
        q.reshape(5, 3, 4)[:, h].T,
        k[:, h].T,
        np.asarray(params["bias"])[h][:, None],
        o.reshape(3, 4, 2)[h],
    ]
    np.testing.assert_allclose(got[h], sum(r @ r.T for r in rows), rtol=1e-4, atol=1e-4)


def test_max_sweeps_is_reported(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    result = af.merge(a, b, mlp.perm_spec, inputs_for(mlp), method="weight_matching", max_sweeps=1)
    assert result.diagnostics == {"sweeps": 1, "converged": False}
    with pytest.raises(ValueError, match="max_sweeps must be >= 1"):
        af.methods.weight_matching(max_sweeps=0)
