"""Mixtures of experts, of one network's copies and of several networks: functions, routing, bad options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.mixtures.moe import moe_apply, route
from autofusion_jax.trees import num_params
from tests.conftest import inputs_for, params_for
from tests.merging.mixtures.networks import CASES, VIT, cases, expect_saved


def mixture(method, model, models, pattern, seed=0, **options):
    return af.merge_many(
        models, None, inputs_for(model, 4), apply_fn=model.apply, method=method, blocks=pattern,
        key=jax.random.key(seed), **options,
    )  # fmt: skip


@cases
def test_an_upscaled_network_is_at_first_itself(case):
    model, pattern = CASES[case]
    params = params_for(model, 0)
    result = mixture("moe_upscaling", model, [params], pattern, num_experts=4)
    for num in (24, 5):
        x = inputs_for(model, num)
        expected = jax.jit(model.apply)(params, x)
        np.testing.assert_allclose(result.apply_fn(result.params, x), expected, atol=1e-5)


@cases
def test_a_router_that_is_sure_picks_one_network(case):
    """With one expert for each position, all the same, the blocks are that network's, the rest averaged."""
    model, pattern = CASES[case]
    models, x = [params_for(model, seed) for seed in range(3)], inputs_for(model)
    result = mixture("moe_merging", model, models, pattern, experts_per_token=1)
    rest, apply = jax.tree.map(lambda *leaves: sum(leaves) / 3, *models), jax.jit(model.apply)
    for chosen in range(3):
        network = result.params["network"]
        expected = jax.tree.map(
            lambda leaf, mean, k=chosen: leaf[k] if leaf.ndim > mean.ndim else mean, network, rest
        )
        first = jax.tree.map(
            lambda leaf, mean, k=chosen: jnp.roll(leaf, -k, 0) if leaf.ndim > mean.ndim else leaf,
            network,
            rest,
        )
        tied = jax.tree.map(jnp.zeros_like, result.params["router"])  # the first expert wins a tie
        got = result.apply_fn({"network": first, "router": tied}, x)
        np.testing.assert_allclose(got, apply(expected, x), atol=1e-4)


@pytest.mark.parametrize("experts_per_token", [1, 2, 3])
def test_a_mixture_by_hand(experts_per_token):
    """One block of a bare function; every position by a loop over its experts."""
    keys = jax.random.split(jax.random.key(0), 3)
    models = [
        {"mlp": jax.random.normal(k, (4, 4)), "scale": jnp.full(4, 1.0 + i)} for i, k in enumerate(keys)
    ]
    x = jax.random.normal(jax.random.key(1), (2, 5, 4))
    options = {"method": "moe_merging", "blocks": "mlp", "experts_per_token": experts_per_token}
    result = af.merge_many(models, None, x, apply_fn=lambda p, x: (x * p["scale"]) @ p["mlp"], **options)
    kernel = 50 * result.params["router"]["all"]["kernel"]
    got = result.apply_fn({**result.params, "router": {"all": {"kernel": kernel}}}, x)
    for sample, position in np.ndindex(2, 5):
        read = 2.0 * np.asarray(x[sample, position])
        logits = read @ np.asarray(kernel)
        best = np.argsort(-logits)[:experts_per_token]
        shares = np.exp(logits[best]) / np.exp(logits[best]).sum()
        expected = sum(share * read @ np.asarray(models[e]["mlp"]) for share, e in zip(shares, best))
        np.testing.assert_allclose(got[sample, position], expected, rtol=1e-4, atol=1e-5)


def test_shares():
    shares = route(
        jax.random.normal(jax.random.key(0), (4, 6)), jax.random.normal(jax.random.key(1), (50, 4)), 2
    )
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal((shares > 0).sum(-1), 2)
    assert (shares > 0).any(0).all()


@pytest.mark.parametrize(
    "case", ["mlp", *(pytest.param(case, marks=pytest.mark.slow) for case in ("vit", "resnet"))]
)
def test_saved_and_loaded(case, tmp_path):
    model, pattern = CASES[case]
    result = mixture("moe_merging", model, [params_for(model, 0), params_for(model, 1)], pattern)
    expect_saved(result, model, moe_apply(model.apply, blocks=pattern), tmp_path / "saved")


@pytest.mark.slow
def test_the_rest_of_the_base():
    """In FusionBench's form; and the experts are the networks' own blocks in both forms."""
    models, base = [params_for(VIT, 1), params_for(VIT, 2)], params_for(VIT, 0)
    pattern = "*block_{}/mlp_*"
    forms = {
        variant: mixture("moe_merging", VIT, models, pattern, base=base, variant=variant).params["network"]
        for variant in ("paper", "fusionbench")
    }
    for variant, expected in (("paper", 0.5 * (models[0]["params"]["cls"] + models[1]["params"]["cls"])),
                              ("fusionbench", base["params"]["cls"])):  # fmt: skip
        np.testing.assert_allclose(forms[variant]["params"]["cls"], expected, atol=1e-6)
        for number, params in enumerate(models):
            got = jax.tree.map(lambda leaf, k=number: leaf[k], forms[variant]["params"]["block_1"]["mlp_0"])
            chex.assert_trees_all_equal(got, params["params"]["block_1"]["mlp_0"])
    with pytest.raises(ValueError, match="base must be the parameters"):
        mixture("moe_merging", VIT, models, pattern, variant="fusionbench")


@pytest.mark.slow
def test_counts_and_keys():
    params = params_for(VIT, 0)
    first, second = (
        mixture("moe_upscaling", VIT, [params], "*block_{}/mlp_*", seed, num_experts=5) for seed in (0, 1)
    )
    expert, router = 3 * (8 * 12 + 12 + 12 * 8 + 8), 3 * 8 * 5
    assert first.diagnostics["num_params"] == num_params(params) + 4 * expert + router
    assert first.diagnostics["num_active"] == num_params(params) + expert + router
    kernels = [result.params["router"]["0"]["kernel"] for result in (first, second)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    np.testing.assert_allclose(np.std(np.concatenate(kernels)), 0.02, rtol=0.3)


@pytest.mark.slow
def test_all_experts_with_a_share_are_trained():
    params, x = params_for(VIT, 0), inputs_for(VIT)
    result = mixture("moe_upscaling", VIT, [params], "*block_{}/mlp_*", num_experts=3, experts_per_token=1)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(result.apply_fn(p, x) ** 2)))(result.params)
    chex.assert_tree_all_finite(grads)
    kernels = grads["network"]["params"]["block_0"]["mlp_1"]["kernel"]
    assert (np.abs(kernels).max((1, 2)) > 1e-3).all()


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


def test_derivatives_of_its_own_stay_a_networks():
    """Rounding has none, but for the ones that it is given."""
    params, x = {"mlp": jnp.array([[0.3, 1.6]])}, jnp.array([[2.0]])
    result = af.merge_many(
        [params], None, x, apply_fn=lambda p, x: straight_through(x @ p["mlp"]), method="moe_upscaling",
        num_experts=1, experts_per_token=1, blocks="mlp",
    )  # fmt: skip
    outputs, back = jax.vjp(lambda p: result.apply_fn(p, x), result.params)
    assert outputs.tolist() == [[1.0, 3.0]]
    assert back(jnp.ones((1, 2)))[0]["network"]["mlp"].tolist() == [[[2.0, 2.0]]]


def test_options_that_do_not_fit_the_networks():
    models = [params_for(VIT, 0), params_for(VIT, 1)]
    for options, message in [
        ({"experts_per_token": 3}, r"experts_per_token must be in \[1, 2\], the number of networks"),
        ({"blocks": "*/mlp"}, "blocks must be a pattern that fits paths of leaves"),
    ]:
        with pytest.raises(ValueError, match=f"moe_merging: .*{message}"):
            af.merge_many(models, None, inputs_for(VIT), apply_fn=VIT.apply, method="moe_merging", **options)


def test_blocks_without_features():
    """A router reads features; a lookup table reads indices."""
    models, rows = [{"table": jnp.ones((3, 2))}] * 2, jnp.arange(3)
    message = r"read features \[N, ..., d\]; got block 'all', which reads int32"
    with pytest.raises(ValueError, match=message):
        af.merge_many(
            models, None, rows, apply_fn=lambda p, x: p["table"][x], method="moe_merging", blocks="table"
        )


def test_no_correction_follows_a_mixture(mlp):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    with pytest.raises(ValueError, match="None for an ensemble, or for another program"):
        af.merge_many(
            models,
            mlp.perm_spec,
            inputs_for(mlp),
            method="moe_merging",
            blocks="*dense_{}/*",
            correction="repair",
        )
