"""BatchNorm reset as recorded of ZipIt, whole networks and heads behind a cut."""

import jax.numpy as jnp
import numpy as np

import autofusion_jax as af
from autofusion_jax.merging.corrections.apply import reset_heads
from autofusion_jax.merging.corrections.reset_norm import reset_norm
from autofusion_jax.merging.zipping.partial import find_cut, partial_network
from tests.conftest import oracle
from tests.merging.zipping.zipit_resnet import GROUP_OF_NODE, bn_resnet, group_of, networks


def setting(name):
    stored = oracle(name)
    models = networks(stored)
    x = jnp.asarray(stored["X"])
    return stored, models, af.infer_perm_spec(bn_resnet, models[0], x[:2]), x


def expect_statistics(stored, prefix, got):
    compared = 0
    for key, value in stored.items():
        path = key.removeprefix(f"{prefix}/")
        if key.startswith(f"{prefix}/") and path in got and path.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-6)
            compared += 1
    return compared


def test_a_whole_network():
    stored, _, spec, x = setting("e2e_zipit_resnet_full_a0.5_b1.npz")
    merged = networks(stored, ["merged"])[0]
    reset, _ = reset_norm(spec, merged, x, batch_size=int(stored["batch_size"]))
    assert expect_statistics(stored, "merged_bnreset", reset) == 18
    outputs = bn_resnet(reset, jnp.asarray(stored["X_eval"]))
    np.testing.assert_allclose(outputs, stored["merged_out_bnreset"], rtol=1e-5, atol=1e-5)


def test_a_trunk_and_two_heads():
    """Cut before the last stage: merged and unmerged by the recorded matrices, with and without reset."""
    stored, models, spec, x = setting("e2e_zipit_resnet_stop18_a0.3_b0.125.npz")
    cut = find_cut(spec, models[0], x, "layer3.0.conv1.weight.read")
    group = group_of(spec, f"{GROUP_OF_NODE[18]}.weight")
    assert cut[0].group == group
    halves = np.split(stored["node18/unmerge"], 2)
    unmerge = [{group: jnp.asarray(half)} for half in halves]
    merged = models[0] | networks(stored, ["merged"])[0]
    params, network = partial_network(spec, models, merged, unmerge, cut, x)
    x_eval = jnp.asarray(stored["X_eval"])
    reset = reset_heads(network, params, x, batch_size=int(stored["batch_size"]))
    for each, name in ((params, "noreset"), (reset, "bnreset")):
        expected = np.stack([stored[f"merged_out_{name}_head{head}"] for head in range(2)])
        np.testing.assert_allclose(network(each, x_eval), expected, rtol=1e-5, atol=1e-5)
    assert expect_statistics(stored, "merged_bnreset", reset["trunk"]) > 0
    for head, leaves in enumerate(reset["heads"]):
        assert expect_statistics(stored, f"head_bnreset{head}", leaves) == 6
