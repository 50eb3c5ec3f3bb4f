import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.zipping.alpha import ALPHAS
from autofusion_jax.merging.zipping.combine import zip_models
from autofusion_jax.merging.zipping.families import find_families
from autofusion_jax.merging.zipping.mudsc import match_dual
from autofusion_jax.merging.zipping.similarities import block_similarities
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.zipping.zipit_resnet import gn_resnet, group_of, networks
from tests.symmetry.zoo import CASES


def bias_free_mlp(params, x):
    for layer in ("fc1", "fc2", "fc3"):
        x = jax.nn.relu(x @ params[f"{layer}.weight"].T)
    return x @ params["fc4.weight"].T


FILES = {"e2e_mudsc_mlp_N2": bias_free_mlp, "e2e_mudsc_resnet_gn_N2": gn_resnet}
ALPHA = {"act": 0.0, "weight": 1.0, "mudsc": 0.5}
VARIANT = {"zip": "zip", "align": "permute"}


def whole(spec, family, matrices, num_models=2):
    """A group's unmerge matrix, or that of a group nested in another, for all channels at once."""
    (inner,), outer = family.inner, family.outer
    if not outer:
        return matrices[inner]
    perms = np.split(np.asarray(matrices[outer[0]]), num_models, -2)  # [G, G]: original, merged
    units = np.split(np.asarray(matrices[inner]), num_models, -2)  # [G, n, n]
    size = spec.groups[outer[0]].size * spec.groups[inner].size
    return np.concatenate([np.einsum("jh,him->jihm", p, u).reshape(size, size) for p, u in zip(perms, units)])


@pytest.mark.parametrize("name", FILES)
def test_replays_the_reference(name):
    """Same matrices after the same visits, as many sweeps, the recorded weights and outputs.

    The published code adds 1e-5 to the number of units in a cluster.
    """
    stored, apply_fn = oracle(f"{name}.npz"), FILES[name]
    models, x = networks(stored), jnp.asarray(stored["X"])
    spec = af.infer_perm_spec(apply_fn, models[0], x, check=False)
    families = find_families(spec)
    inner = {k: group_of(spec, leaves[0][1]) for k, leaves in json.loads(str(stored["perm_json"])).items()}
    number = [next(i for i, f in enumerate(families) if group in f.inner) for group in inner.values()]
    activations = {group: jnp.asarray(stored[f"act_sims/perm{k}"]) for k, group in inner.items()}
    for space, alpha in ALPHA.items():
        for matching, variant in VARIANT.items():
            case = f"{space}_{matching}"
            visits = [[number[i] for i in sweep] for sweep in stored[f"{case}/visits"]]
            found = match_dual(
                spec, models, {} if alpha == 1 else activations, np.array(visits, int), alpha=alpha,
                variant=variant, a=float(stored["a"]), b=float(stored["b"]),
            )  # fmt: skip
            assert len(found.values) == len(visits) and found.converged, case
            for k, i in zip(inner, number):
                got = whole(spec, families[i], found.matching.unmerge)
                np.testing.assert_array_equal(got, stored[f"{case}/perm{k}/unmerge"], err_msg=case)
            params = zip_models(spec, models, found.matching.merge, found.matching.unmerge)
            for path, expected in networks(stored, [f"{case}/merged"])[0].items():
                np.testing.assert_allclose(params[path], expected, rtol=2e-5, atol=1e-6, err_msg=case)
            np.testing.assert_allclose(
                apply_fn(params, x), stored[f"{case}/merged_out"], rtol=1e-4, atol=1e-4, err_msg=case
            )


@pytest.mark.parametrize("name", FILES)
def test_measures_the_recorded_similarities(name):
    """But for units that never fire, which are alike here; and where the site is behind pooling."""
    stored, apply_fn = oracle(f"{name}.npz"), FILES[name]
    models, x = networks(stored), jnp.asarray(stored["X"])
    spec = af.infer_perm_spec(apply_fn, models[0], x, check=False)
    measured = block_similarities(spec, models, x, kind="correlation", position="read")
    perms = json.loads(str(stored["perm_json"]))
    for k in list(perms)[:-1]:
        got = np.asarray(measured[group_of(spec, perms[k][0][1])])
        np.testing.assert_allclose(got, stored[f"act_sims/perm{k}"], atol=5e-6)
