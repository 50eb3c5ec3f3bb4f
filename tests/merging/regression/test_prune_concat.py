import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.regression import layerwise, least_squares
from autofusion_jax.merging.regression.selection import select_units
from autofusion_jax.symmetry.transform import transform
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts_models import MODELS

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
"""The larger models, which take seconds to compile."""


def merged(model, models, x=None, **options):
    x = inputs_for(model, 40) if x is None else x
    return af.merge_many(models, model.perm_spec, x, method="prune_concat", **options)


def test_an_mlp_by_hand(mlp):
    """All of it in float64, the ridge as rows of the least squares; the head fitted to the mean."""
    ridge, x = 0.1, inputs_for(mlp, 300)
    params = [params_for(mlp, seed) for seed in (0, 1)]
    networks = [jax.tree.map(np.float64, p["params"]) for p in params]
    read = [np.float64(x).reshape(300, -1)] * 2
    z, keep_read = read[0], None
    expected = {}
    for name, size in (("dense_0", 12), ("dense_1", 10), ("head", None)):
        made = [h @ p[name]["kernel"] + p[name]["bias"] for h, p in zip(read, networks)]
        keep = [np.argsort(-np.maximum(m, 0).std(0))[: size // 2] if size else np.arange(3) for m in made]
        keep = [np.sort(units) for units in keep]
        blocks = [p[name]["kernel"] for p in networks]
        blocks = [w[:, units] for w, units in zip(blocks, keep)]
        if size:
            y = np.concatenate([m[:, units] for m, units in zip(made, keep)], 1)
            bias = np.concatenate([p[name]["bias"][units] for p, units in zip(networks, keep)])
        else:
            y, bias = sum(made) / 2, sum(p[name]["bias"] for p in networks) / 2
        if keep_read is None:
            kernel = np.concatenate(blocks, 1)
        else:
            blocks = [w[units] for w, units in zip(blocks, keep_read)]
            rows, columns = (len(blocks[0]), blocks[0].shape[1])
            start = np.zeros((2 * rows, 2 * columns)) if size else np.concatenate(blocks) / 2
            if size:
                start[:rows, :columns], start[rows:, columns:] = blocks
            centred, lacking = z - z.mean(0), y - z @ start - bias
            weight = np.sqrt(ridge * np.mean(centred**2) * len(z))
            stacked = np.concatenate([centred, weight * np.eye(z.shape[1])])
            target = np.concatenate([lacking - lacking.mean(0), np.zeros((z.shape[1], y.shape[1]))])
            change = np.linalg.lstsq(stacked, target, rcond=None)[0]
            kernel, bias = start + change, bias + lacking.mean(0) - z.mean(0) @ change
        expected[name] = {"kernel": kernel, "bias": bias}
        read, z, keep_read = [np.maximum(m, 0) for m in made], np.maximum(z @ kernel + bias, 0), keep
    got = merged(mlp, params, x, ridge=ridge, pseudo_labels=None).params["params"]
    chex.assert_trees_all_close(got, expected, atol=2e-4)


def without_half(model, params, half):
    """A network in which every other unit of each group is dead, and so says nothing."""

    def mask(leaf, axis, outer_axes, group, role):
        alive = (jnp.arange(leaf.shape[axis]) % 2 == half).astype(leaf.dtype)
        return leaf * alive.reshape(-1, *(1,) * (leaf.ndim - axis - 1)) if role == "out" else leaf

    return transform(model.perm_spec, params, mask)


@pytest.mark.parametrize("name", ["mlp", "vgg", SLOW[0]])
@pytest.mark.slow
def test_networks_that_fit_beside_each_other_lose_nothing(name, request):
    model = MODELS[name] if name in MODELS else request.getfixturevalue(name)
    models = [without_half(model, params_for(model, seed), seed) for seed in (0, 1)]
    x = inputs_for(model, 40)
    result = merged(model, models, x, pseudo_labels=None)
    expected = sum(model.apply(params, x) for params in models) / 2
    np.testing.assert_allclose(model.apply(result.params, x), expected, atol=2e-4)
    assert result.diagnostics["head"] == "mean"


@pytest.mark.parametrize("name", ["vgg", *SLOW])
def test_a_fit_lacks_no_more_than_the_networks_side_by_side(name, request):
    model = MODELS[name] if name in MODELS else request.getfixturevalue(name)
    result = merged(model, [params_for(model, seed) for seed in (0, 1)], pseudo_labels=None)
    residuals = result.diagnostics["residuals"]
    assert residuals
    assert all(after <= before for before, after in residuals.values())
    assert sum(after for _, after in residuals.values()) < sum(before for before, _ in residuals.values())
    assert set(residuals) < set(result.diagnostics["fitted"])


@pytest.mark.slow
def test_the_residual_is_what_it_says(vgg):
    """The pre-activations of the second convolution, captured from the networks."""
    models, x, spec = [params_for(vgg, seed) for seed in (0, 1)], inputs_for(vgg, 40), vgg.perm_spec
    result = merged(vgg, models, x)
    site = next(site for site in spec.sites if site.name == "conv_1/kernel.pre")
    own, *others = (
        np.asarray(af.capture_sites(spec, p, x, sites=[site])[site.name]) for p in (result.params, *models)
    )
    wanted = sum(h @ np.asarray(m["conv_1"]).T for h, m in zip(others, result.alignments))
    _, after = result.diagnostics["residuals"]["params/conv_1/kernel"]
    np.testing.assert_allclose(after, np.mean((own - wanted) ** 2), rtol=1e-3)


@pytest.mark.parametrize("name", ["vgg", *SLOW])
def test_a_permuted_network_leads_to_the_same_function(name, request):
    model = MODELS[name] if name in MODELS else request.getfixturevalue(name)
    spec, x = model.perm_spec, inputs_for(model, 40)
    a, b = params_for(model, 0), params_for(model, 1)
    copy = af.apply_perm(spec, b, af.random_perms(spec, jax.random.key(2)))
    got, expected = (model.apply(merged(model, [a, other], x).params, x) for other in (copy, b))
    np.testing.assert_allclose(got, expected, atol=2e-3 * float(jnp.abs(expected).max()))


@pytest.mark.slow
def test_three_networks_share_what_there_is(mlp):
    models, x = [params_for(mlp, seed) for seed in range(3)], inputs_for(mlp, 200)
    result = merged(mlp, models, x)
    assert result.diagnostics["units"] == {"dense_0": [4, 4, 4], "dense_1": [4, 3, 3]}
    read = [np.asarray(af.capture_sites(mlp.perm_spec, p, x)["dense_1/kernel.read"]) for p in models]
    for k, matrices in enumerate(result.alignments):
        rows, units = np.nonzero(matrices["dense_0"])
        np.testing.assert_array_equal(rows, 4 * k + np.arange(4))
        np.testing.assert_array_equal(units, np.sort(np.argsort(-read[k].std(0))[:4]))
        first = result.params["params"]["dense_0"]["kernel"][:, rows]
        np.testing.assert_array_equal(first, models[k]["params"]["dense_0"]["kernel"][:, units])


@pytest.mark.slow
def test_heads_are_kept_whole():
    model = MODELS["vit"]
    models, x = [params_for(model, seed) for seed in (0, 1)], inputs_for(model, 40)
    kept = select_units(model.perm_spec, models, x)
    nested = {group.name for group in model.perm_spec.groups.values() if group.nested_in}
    (site,) = (site for site in model.perm_spec.sites if site.position == "read" and site.group in nested)
    heads = kept["block_0/attention.heads"]
    for k, params in enumerate(models):
        values = np.asarray(af.capture_sites(model.perm_spec, params, x, sites=[site])[site.name])
        spread = values.reshape(-1, *values.shape[-2:]).var(0).sum(-1)  # by head
        assert heads[k][k, np.argmax(spread)]
        assert heads[k].sum() == 1
        for group in nested:  # merged head k is network k's
            np.testing.assert_array_equal(kept[group][k, k], np.eye(3))
            assert not kept[group][k, 1 - k].any()


def test_neither_batches_nor_memory_change_the_result(vgg, monkeypatch):
    models, x = [params_for(vgg, seed) for seed in (0, 1)], inputs_for(vgg, 40)
    expected = merged(vgg, models, x).params
    monkeypatch.setattr(least_squares, "MAX_NUMBERS", 100_000)
    chex.assert_trees_all_close(merged(vgg, models, x).params, expected, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(layerwise, "MAX_KEPT", 0)
    chex.assert_trees_all_close(merged(vgg, models, x).params, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_product_per_unit_of_a_group_is_left_as_selected():
    def apply_fn(params, x):
        h = jnp.tanh(jnp.einsum("nd,dhk->nhk", x, params["up"]))
        h = jnp.tanh(jnp.einsum("nhk,hkm->nhm", h, params["each"]))
        return jnp.einsum("nhm,hmo->no", h, params["down"])

    def network(seed):
        shapes = {"up": (5, 4, 3), "each": (4, 3, 6), "down": (4, 6, 3)}
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items())}

    x = jax.random.normal(jax.random.key(9), (40, 5))
    spec = af.infer_perm_spec(apply_fn, network(0), x)
    result = af.merge(network(0), network(1), spec, x, method="prune_concat", pseudo_labels=None)
    assert result.diagnostics["fitted"] == ["down"]
    assert {size for sizes in result.diagnostics["units"].values() for size in sizes} == {2, 6, 12}


@pytest.mark.slow
def test_images_are_fitted_to_the_mean():
    model = MODELS["encoder_decoder"]
    result = merged(model, [params_for(model, seed) for seed in (0, 1)], pseudo_labels="confidence")
    assert result.diagnostics["head"] == "mean"
    assert any(path in result.diagnostics["fitted"] for path in ("params/head/kernel", "params/out/kernel"))
