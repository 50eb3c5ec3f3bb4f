"""Values at sites and their moments, against forward passes written by hand and numpy in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for
from tests.symmetry.zoo import CASES


def test_mlp_sites_by_hand(mlp):
    params, x, spec = params_for(mlp, 0), inputs_for(mlp, 7), mlp.perm_spec
    got = af.capture_sites(spec, params, x)
    expected, h = {}, x.reshape(7, -1)
    for i in range(2):
        layer = params["params"][f"dense_{i}"]
        expected[f"dense_{i}/kernel.pre"] = pre = h @ layer["kernel"] + layer["bias"]
        h = jax.nn.relu(pre)
        expected[f"{('dense_1', 'head')[i]}/kernel.read"] = h
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)
    sites = {site.name: site for site in spec.sites}
    pre = sites["dense_0/kernel.pre"]
    assert (pre.group, pre.position, pre.leaf) == ("dense_0", "pre", "params/dense_0/kernel")
    read = sites["head/kernel.read"]
    assert (read.group, read.position, read.axis) == ("dense_1", "read", 1)


def test_a_flattened_axis_is_read_as_pixels_and_channels(vgg):
    params, x = params_for(vgg, 0), inputs_for(vgg, 5)
    got = af.capture_sites(vgg.perm_spec, params, x)
    features = vgg.features(params, x)
    np.testing.assert_allclose(got["head/kernel.read"].reshape(5, -1), features, atol=1e-5)
    assert got["head/kernel.read"].shape == (5, 16, 6)
    assert got["conv_1/kernel.pre"].shape == (5, 4, 4, 6)


def test_norm_scales_belong_to_the_pre_activation():
    params = {"w": jnp.eye(2), "scale": jnp.array([2.0, 3.0]), "out": jnp.ones((2, 1))}

    def apply_fn(params, x):
        return jax.nn.relu((x @ params["w"] - 1.0) * params["scale"]) @ params["out"]

    spec = af.infer_perm_spec(apply_fn, params, jnp.ones((1, 2)))
    got = af.capture_sites(spec, params, jnp.array([[0.0, 2.0]]))
    np.testing.assert_allclose(got["w.pre"], [[-2.0, 3.0]])
    np.testing.assert_allclose(got["out.read"], [[0.0, 3.0]])


def test_heads_and_scans():
    spec, _, _, got = captured("scan_over_layers")
    for site in spec.sites:
        group = spec.groups[site.group]
        sizes = (*spec.outer_sizes(site.group), group.size)
        assert got[site.name].shape[-len(sizes) :] == sizes
    assert any(spec.stacks and set(spec.groups[s.group].nested_in) & set(spec.stacks) for s in spec.sites)


def captured(name):
    apply_fn, params, x = CASES[name].make()
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    return spec, params, x, af.capture_sites(spec, params, x)


@pytest.mark.parametrize("name", ["attention_linen", "swin", "resnet20_group_norm", "gpt2"])
@pytest.mark.slow
def test_another_number_of_inputs(name):
    spec, params, x, two = captured(name)
    five = af.capture_sites(spec, params, jnp.concatenate([x, x, x[:1]]))
    for site in spec.sites:
        first = five[site.name].reshape(5, -1)[:2] if two[site.name].shape[0] == 2 else None
        if first is not None:
            np.testing.assert_allclose(first, two[site.name].reshape(2, -1), atol=1e-4)
        assert five[site.name].size * 2 == two[site.name].size * 5


def test_jit_and_vmap(mlp):
    spec, x = mlp.perm_spec, inputs_for(mlp, 3)
    models = [params_for(mlp, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    many = jax.jit(jax.vmap(lambda params: af.capture_sites(spec, params, x)))(stacked)
    for i, params in enumerate(models):
        one = af.capture_sites(spec, params, x)
        for name, value in one.items():
            np.testing.assert_allclose(many[name][i], value, atol=1e-5)


def test_one_program(mlp):
    """The network is traced once for a shape of inputs, and evaluated without a call of its own."""
    traced = []

    def apply_fn(params, x):
        traced.append(1)
        return mlp.apply(params, x)

    params, x = params_for(mlp, 0), inputs_for(mlp, 3)
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    for seed in range(3):
        af.capture_sites(spec, params_for(mlp, seed), x)
    assert len(traced) == 1


def test_moments_of_two_networks_against_float64(model):
    models = [params_for(model, seed) for seed in range(2)]
    spec, x = model.perm_spec, inputs_for(model, 20)
    got = af.moments(spec, models, [x[:8], x[8:16], x[16:]])
    values = [af.capture_sites(spec, params, x) for params in models]
    assert set(got) == {site.name for site in spec.sites}
    for site in spec.sites:
        n = spec.groups[site.group].size
        rows = np.concatenate([np.asarray(v[site.name], np.float64).reshape(-1, n) for v in values], 1)
        cov = np.cov(rows.T, bias=True)
        scale = np.sqrt(np.diag(cov))
        part = got[site.name]
        assert float(part.count) == len(rows)
        np.testing.assert_allclose(part.mean.reshape(-1), rows.mean(0), atol=1e-5 * scale.max())
        np.testing.assert_allclose(part.cov, cov, atol=1e-5 * scale.max() ** 2)
        np.testing.assert_allclose(part.cross(0, 1), cov[:n, n:], atol=1e-5 * scale.max() ** 2)


def test_moments_of_nested_groups():
    spec, params, x, values = captured("attention_bare")
    got = af.moments(spec, [params], [x])
    nested = [site for site in spec.sites if spec.groups[site.group].nested_in]
    assert nested
    for site in nested:
        (heads,), n = spec.outer_sizes(site.group), spec.groups[site.group].size
        assert got[site.name].cov.shape == (heads, n, n)
        rows = np.asarray(values[site.name], np.float64).reshape(-1, heads, n)
        for head in range(heads):
            np.testing.assert_allclose(
                got[site.name].cov[head], np.cov(rows[:, head].T, bias=True), atol=1e-4
            )


def test_errors(mlp):
    spec, params, x = mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp, 3)
    stored = af.PermSpec.from_json(spec.to_json())
    with pytest.raises(
        ValueError, match="capture_sites: spec must carry an apply_fn and sites; it has no app"
    ):
        af.capture_sites(stored, params, x)
    bare = af.PermSpec(spec.leaves, spec.groups, spec.apply_fn)
    with pytest.raises(ValueError, match="it has no sites. Use infer_perm_spec"):
        af.capture_sites(bare, params, x)
    other = dataclasses.replace(mlp.perm_spec.sites[0], name="other")
    with pytest.raises(ValueError, match="capture_sites: sites must be of the spec: .*; got 'other'"):
        af.capture_sites(mlp.perm_spec, params_for(mlp, 0), inputs_for(mlp), sites=[other])
    with pytest.raises(ValueError, match="capture_sites: params"):
        af.capture_sites(spec, {"params": {}}, x)
    other = af.PermSpec(spec.leaves, spec.groups, lambda p, x: jnp.sum(x), sites=spec.sites)
    with pytest.raises(ValueError, match="must lead to the program that the spec was inferred from"):
        af.capture_sites(other, params, x)
    with pytest.raises(ValueError, match="at least one batch"):
        af.moments(spec, [params], [])
