"""The table of contracts on the larger models: every method on every one, with a permuted copy."""

import chex
import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import (
    ALIGNED,
    LEAF_BY_LEAF,
    LEARNED,
    METHODS,
    NOT_ITSELF,
    OF_BLOCKS,
    OTHER_PROGRAM,
    options_for,
)

IMAGE = (4, 4, 2)
MODELS = {
    "resnet_batch_norm": build_model("resnet", IMAGE, num_classes=3, widths=(4, 6), depths=(1, 1)),
    "resnet_group_norm": build_model(
        "resnet", IMAGE, num_classes=3, widths=(6,), depths=(1,), norm="group", norm_groups=2
    ),
    "vit": build_model("vit", IMAGE, num_classes=3, patch=2, dim=6, depth=1, num_heads=2, mlp_dim=5),
    "encoder_decoder": build_model("encoder_decoder", IMAGE, num_classes=3, widths=(4, 6)),
}

CANNOT = {
    (name, "encoder_decoder"): "answers with images, not with one vector for every input"
    for name in ("prune_concat_distill", "em_ensemble", "fisher", "surgery")
}
"""Pairs that are refused, with the reason."""

COPIES = [name for name in METHODS if name not in LEAF_BY_LEAF | OF_BLOCKS]


@pytest.mark.slow
@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize("name", COPIES)
def test_a_permuted_copy(name, network):
    expect_copy_merged(name, network, MODELS[network])


def expect_copy_merged(name, network, model):
    """Merged with a permuted copy of itself a network keeps its structure and, where it can, its function."""
    spec, params, x = model.perm_spec, params_for(model, 0), inputs_for(model)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(4)))
    options = options_for(name, model, align=True) | (ALIGNED if name in LEARNED else {})

    def merge():
        return af.merge(params, copy, spec, x, method=name, **options)

    if (name, network) in CANNOT:
        with pytest.raises(ValueError, match="must be"):
            merge()
        return
    result = merge()
    chex.assert_tree_all_finite(result.params)
    if name not in OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, params)
    got = result.apply_fn(result.variants.get("hard", result.params), x)
    if name not in NOT_ITSELF:
        expected = model.apply(params, x)
        np.testing.assert_allclose(jax.nn.log_softmax(got), jax.nn.log_softmax(expected), atol=1e-3)
