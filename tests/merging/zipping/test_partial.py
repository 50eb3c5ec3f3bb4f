"""Cuts of the program, and networks zipped up to one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.zipping.partial import find_cut, partial_network
from tests.merging.corrections.networks import apply, pair
from tests.symmetry.zoo import CASES


def resnet():
    network, params, x = CASES["resnet20_batch_norm"].make()
    return network, params, af.infer_perm_spec(network, params, x), x


def identity_unmerge(spec):
    return {name: jnp.eye(group.size) for name, group in spec.groups.items()}


def test_cuts_of_an_mlp_are_all_its_sites():
    params, _, spec, x = pair()
    for site in spec.sites:
        assert find_cut(spec, params, x, site.name) == (site,)


def test_a_shortcut_goes_round_the_inside_of_a_block():
    _, params, spec, x = resnet()
    assert find_cut(spec, params, x, "b10_conv1/kernel.read")
    with pytest.raises(ValueError, match="inputs reach the outputs past it") as error:
        find_cut(spec, params, x, "b10_conv2/kernel.read")
    listed = str(error.value).split("such as ")[1]
    assert "'b10_conv1/kernel.read'" in listed and "b10_conv2/kernel.read'," not in listed
    # the inside of the block and its projection separate together
    assert len(find_cut(spec, params, x, ["b10_conv2/kernel.read", "b10_proj/kernel.pre"])) == 2
    with pytest.raises(ValueError, match="no site of this spec is named 'b10'"):
        find_cut(spec, params, x, "b10")


def test_sites_inside_a_scan_are_refused():
    network, params, x = CASES["scan_over_layers"].make()
    spec = af.infer_perm_spec(network, params, x)
    inside = next(site for site in spec.sites if len(site.path) > 1)
    with pytest.raises(ValueError, match="stop_at must be"):
        find_cut(spec, params, x, inside.name)


def test_trunk_of_one_and_heads_of_each():
    """With nothing to unmerge, every head behind A's trunk is computed as by hand."""
    params_a, params_b, spec, x = pair(norm=True)
    cut = find_cut(spec, params_a, x, "layer_1/kernel.read")
    units = [identity_unmerge(spec)] * 2
    params, network = partial_network(spec, [params_a, params_b], params_a, units, cut, x)
    assert sorted(params["trunk"]) == sorted(f"layer_0/{name}" for name in params_a["layer_0"])
    assert not any(path.startswith("layer_0") for head in params["heads"] for path in head)
    mixed = {**params_b, "layer_0": params_a["layer_0"]}
    expected = jnp.stack([apply(params_a, x), apply(mixed, x)])
    np.testing.assert_allclose(jax.jit(network)(params, x), expected, atol=1e-5)


def test_the_cut_value_is_unmerged_for_each_head():
    params_a, _, spec, x = pair()
    perms = af.random_perms(spec, jax.random.key(3))
    copy = af.apply_perm(spec, params_a, perms)
    back = {name: jax.nn.one_hot(perm, len(perm)) for name, perm in perms.items()}
    cut = find_cut(spec, params_a, x, "layer_2/kernel.read")
    units = [identity_unmerge(spec), back]
    params, network = partial_network(spec, [params_a, copy], params_a, units, cut, x)
    outputs = network(params, x)
    for output in outputs:
        np.testing.assert_allclose(output, apply(params_a, x), atol=1e-5)


@pytest.mark.slow
def test_a_resnet_cut_between_blocks():
    network, params, spec, x = resnet()
    cut = find_cut(spec, params, x, "b20_conv1/kernel.read")
    units = [identity_unmerge(spec)] * 2
    cut_params, partial = partial_network(spec, [params, params], params, units, cut, x)
    outputs = partial(cut_params, x)
    chex.assert_shape(outputs, (2, *network(params, x).shape))
    np.testing.assert_allclose(outputs[1], network(params, x), atol=1e-5)
    assert set(cut_params["unmerge"][0]) == {"b10_conv2"}


@pytest.mark.slow
def test_zipit_stops_where_it_is_told():
    """Two copies of one network, up to a permutation: both heads give its outputs."""
    network, params, spec, x = resnet()
    x = jax.random.normal(jax.random.key(1), (16, *x.shape[1:]))
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(2)))
    result = af.merge(params, copy, spec, x, method="zipit", stop_at="b20_conv1/kernel.read")
    assert result.num_heads == 2
    for output in result.apply_fn(result.params, x):
        np.testing.assert_allclose(output, network(params, x), atol=1e-3)
    with pytest.raises(ValueError, match="stop_at must be sites that separate"):
        af.merge(params, copy, spec, x, method="zipit", stop_at="b20_conv2/kernel.read")
    reset = af.merge(
        params, copy, spec, x, method="zipit", stop_at="b20_conv1/kernel.read", correction="reset_norm"
    )
    assert np.isfinite(reset.apply_fn(reset.params, x)).all()
    with pytest.raises(ValueError, match="several heads"):
        af.merge(params, copy, spec, x, method="zipit", stop_at="b20_conv1/kernel.read", correction="repair")
