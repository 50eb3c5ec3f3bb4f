"""What tests of mixing methods share: small networks with blocks, and a round trip through a checkpoint."""

import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from tests.conftest import MODELS, inputs_for


def vit(depth=3):
    return build_model("vit", (8, 8, 2), dim=8, depth=depth, num_heads=2, mlp_dim=12, num_classes=3)


def resnet(depths=(2, 2)):
    return build_model("resnet", (8, 8, 2), widths=(4, 6), depths=depths, num_classes=3)


VIT, RESNET = vit(), resnet()
CASES = {
    "vit": (VIT, "*block_{}/mlp_*"),
    "vit blocks": (VIT, "*block_{}/*"),
    "vit attention": (VIT, "*block_{}/attention/*"),
    "mlp": (MODELS["mlp"], "*dense_{}/*"),
    "vgg": (MODELS["vgg"], "*conv_{}/*"),
    "resnet": (RESNET, "*stage{}_block{}/*"),
}
"""Networks and patterns of blocks in them."""

cases = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case == "mlp" else pytest.mark.slow) for case in CASES]
)


def expect_saved(result, model, apply_again, folder):
    """Saved and loaded, a result has the same bits, and by `apply_again` the same outputs under jit."""
    af.save(folder, result.params)
    loaded = af.load(folder).params
    assert jax.tree.structure(loaded) == jax.tree.structure(result.params)
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(result.params)):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    for num in (5, 24):
        x = inputs_for(model, num)
        expected = jax.jit(result.apply_fn)(result.params, x)
        np.testing.assert_array_equal(jax.jit(apply_again)(loaded, x), expected)
