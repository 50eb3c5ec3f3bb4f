"""REPAIR: the corrected network's own activations have the spread of their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.merging.corrections.networks import WIDTHS, apply, pair


def pre(spec, params, x):
    values = af.capture_sites(spec, params, x)
    return {name: np.asarray(v, np.float64) for name, v in values.items() if name.endswith(".pre")}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("method", ["interpolation", "weight_matching"])
@pytest.mark.slow
def test_means_and_deviations_are_those_of_the_parts(method, norm):
    params_a, params_b, spec, x = pair(norm=norm)
    result = af.merge(params_a, params_b, spec, x, method=method, gamma=0.3, correction="repair")
    assert result.diagnostics["correction"]["corrected"] == 2
    aligned = af.apply_perm(spec, params_b, result.perms)
    got, a, b = (pre(spec, p, x) for p in (result.params, params_a, aligned))
    plain = pre(spec, af.merge(params_a, params_b, spec, x, method=method, gamma=0.3).params, x)
    for name in got:
        mean, std = (0.3 * f(a[name]) + 0.7 * f(b[name]) for f in (lambda v: v.mean(0), lambda v: v.std(0)))
        np.testing.assert_allclose(got[name].mean(0), mean, atol=2e-5)
        np.testing.assert_allclose(got[name].std(0), std, rtol=2e-5)
        assert np.abs(plain[name].std(0) / std - 1).max() > 0.05  # there was something to repair


def test_a_pair_by_hand():
    """One hidden layer: scale and shift folded into kernel and bias, computed directly."""

    def network(params, x):
        return jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"]

    keys = iter(jax.random.split(jax.random.key(0), 8))

    def draw():
        shapes = {"up": (3, 5), "bias": (5,), "down": (5, 2)}
        return {name: jax.random.normal(next(keys), shape) for name, shape in shapes.items()}

    a, b, x = draw(), draw(), jax.random.normal(next(keys), (50, 3))
    spec = af.infer_perm_spec(network, a, x[:2])
    result = af.merge(a, b, spec, x, method="interpolation", correction="repair")
    z_a, z_b = (np.asarray(x @ p["up"] + p["bias"], np.float64) for p in (a, b))
    z = (z_a + z_b) / 2
    scale = (z_a.std(0) + z_b.std(0)) / 2 / z.std(0)
    np.testing.assert_allclose(result.params["up"], (a["up"] + b["up"]) / 2 * scale, rtol=1e-4)
    shift = (z_a.mean(0) + z_b.mean(0)) / 2 - scale * z.mean(0)
    np.testing.assert_allclose(result.params["bias"], (a["bias"] + b["bias"]) / 2 * scale + shift, rtol=1e-4)
    np.testing.assert_array_equal(result.params["down"], (a["down"] + b["down"]) / 2)


def test_without_biases_units_are_only_rescaled():
    params_a, params_b, spec, x = pair(bias=False)
    result = af.merge(params_a, params_b, spec, x, method="interpolation", correction="repair")
    assert result.diagnostics["correction"]["only_rescaled"] == ["layer_0/kernel.pre", "layer_1/kernel.pre"]
    got, a, b = (pre(spec, p, x) for p in (result.params, params_a, params_b))
    for name in got:
        np.testing.assert_allclose(got[name].std(0), (a[name].std(0) + b[name].std(0)) / 2, rtol=2e-5)


def test_a_network_with_itself_stays_as_it_is():
    params, _, spec, x = pair(norm=True)
    result = af.merge(params, params, spec, x, method="interpolation", correction="repair")
    np.testing.assert_allclose(apply(result.params, x), apply(params, x), atol=1e-5)


@pytest.mark.slow
def test_soft_and_hard_variants_have_targets_of_their_own():
    params_a, params_b, spec, x = pair()
    options = {"method": "autofusion", "epochs": 2, "zeta": 0.0}
    result = af.merge(params_a, params_b, spec, x, correction="repair", **options)
    targets = {
        "hard": af.apply_perm(spec, params_b, result.perms),
        "soft": None,
    }
    got = pre(spec, result.variants["hard"], x)
    a, b = pre(spec, params_a, x), pre(spec, targets["hard"], x)
    for name in got:
        np.testing.assert_allclose(got[name].std(0), (a[name].std(0) + b[name].std(0)) / 2, rtol=2e-5)
    got, b = pre(spec, result.variants["soft"], x), pre(spec, params_b, x)
    for name in got:
        soft = np.asarray(result.soft_perms[name.removesuffix("/kernel.pre")], np.float64)
        mixed = (a[name].std(0) + soft @ b[name].std(0)) / (1 + soft.sum(1))
        np.testing.assert_allclose(got[name].std(0), mixed, rtol=2e-5)
    assert result.params is result.variants["soft"]


@pytest.mark.slow
def test_heads_are_corrected_once_and_unit_by_unit():
    """Nested groups: the query, key and value of every head have the spread of their parts."""
    from tests.symmetry.zoo import CASES

    network, params, x = CASES["attention_bare"].make()
    spec = af.infer_perm_spec(network, params, x)
    other = jax.tree.map(lambda leaf: jnp.flip(leaf) + 0.1, params)
    result = af.merge(params, other, spec, x, method="weight_matching", correction="repair")
    aligned = af.apply_perm(spec, other, result.perms)
    sites = [site for site in spec.sites if site.position == "pre" and spec.groups[site.group].nested_in]
    assert sites
    values = [af.capture_sites(spec, p, x, sites=sites) for p in (result.params, params, aligned)]
    for site in sites:
        got, a, b = (np.asarray(v[site.name], np.float64) for v in values)
        samples = tuple(range(got.ndim - 2))
        np.testing.assert_allclose(got.std(samples), (a.std(samples) + b.std(samples)) / 2, rtol=1e-4)


def test_refusals():
    params_a, params_b, spec, x = pair()
    with pytest.raises(ValueError, match="got 'repare'. Did you mean 'repair'"):
        af.merge(params_a, params_b, spec, x, method="interpolation", correction="repare")
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(params_a, params_b, spec, None, method="interpolation", correction="repair")
    with pytest.raises(ValueError, match="None for an ensemble"):
        af.merge(params_a, params_b, spec, x, method="confidence_ensemble", correction="repair")
    with pytest.raises(ValueError, match="normalises nothing by stored statistics"):
        af.merge(params_a, params_b, spec, x, method="interpolation", correction="reset_norm")
    assert WIDTHS[0] == x.shape[1]
