"""BatchNorm statistics measured again: found in the program, layer after layer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import autofusion_jax as af
from autofusion_jax.merging.corrections.reset_norm import reset_norm
from tests.merging.corrections.networks import apply, pair
from tests.symmetry.zoo import CASES


def test_every_norm_then_sees_its_own_statistics():
    params_a, params_b, spec, x = pair(norm=True)
    result = af.merge(params_a, params_b, spec, x, method="interpolation", correction="reset_norm")
    assert result.diagnostics["correction"]["reset"] == [
        f"layer_{i}/{leaf}" for i in range(2) for leaf in ("mean", "var")
    ]
    h = np.asarray(x, np.float64)
    for number in range(2):
        layer = {
            name: np.asarray(leaf, np.float64) for name, leaf in result.params[f"layer_{number}"].items()
        }
        z = h @ layer["kernel"]
        np.testing.assert_allclose(layer["mean"], z.mean(0), atol=1e-5)
        np.testing.assert_allclose(layer["var"], z.var(0, ddof=1), rtol=1e-5)
        z = (z - layer["mean"]) / np.sqrt(z.var(0) + 1e-5) * layer["scale"] + layer["bias"]
        h = np.maximum(z, 0)


def test_batches_are_averaged():
    params, _, spec, x = pair(norm=True)
    parts = [reset_norm(spec, params, part)[0] for part in (x[:80], x[80:160], x[160:])]
    whole, _ = reset_norm(spec, params, x, batch_size=80)
    expected = jax.tree.map(lambda a, b, c: 0.4 * a + 0.4 * b + 0.2 * c, *parts)
    chex.assert_trees_all_close(whole, expected, rtol=1e-5)


def test_only_the_statistics_change():
    params_a, params_b, spec, x = pair(norm=True)
    plain, reset = (
        af.merge(params_a, params_b, spec, x, method="interpolation", correction=correction).params
        for correction in (None, "reset_norm")
    )
    for layer, leaves in plain.items():
        for name, leaf in leaves.items():
            same = np.array_equal(leaf, reset[layer][name])
            assert same == (name not in ("mean", "var")), (layer, name)
    assert not np.allclose(apply(plain, x), apply(reset, x))


def test_all_norms_of_a_linen_resnet_are_found():
    """Feature maps: statistics over images and pixels, through blocks and shortcuts."""
    network, params, x = CASES["resnet20_batch_norm"].make()
    x = jax.random.normal(jax.random.key(0), (32, *x.shape[1:]))
    spec = af.infer_perm_spec(network, params, x[:2])
    reset, said = reset_norm(spec, params, x)
    stored = [path for path in said["reset"] if path.endswith("/mean")]
    assert len(stored) == sum(name.endswith("norm") or "norm" in name for name in params["batch_stats"])
    values = af.capture_sites(spec, reset, x)
    stem = np.asarray(values["stem/kernel.pre"]).reshape(-1, values["stem/kernel.pre"].shape[-1])
    norm = reset["params"]["stem_norm"]
    np.testing.assert_allclose(stem.mean(0), norm["bias"], atol=1e-4)
    np.testing.assert_allclose(stem.std(0), jnp.abs(norm["scale"]), rtol=1e-3)
