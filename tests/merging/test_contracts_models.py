"""The table of contracts on the larger models: every method on every one, with a permuted copy."""

import chex
import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from tests.conftest import fine_tuned, inputs_for, params_for
from tests.merging.test_contracts import (
    ALIGNED,
    ENSEMBLES,
    IN_PLACE,
    LEARNED,
    METHODS,
    NEED_BASE,
    NOT_ITSELF,
    OTHER_STRUCTURE,
    options_for,
)

IMAGE = (4, 4, 2)
TOWER = {"dim": 6, "depth": 1, "num_heads": 2, "mlp_dim": 5}
MODELS = {
    "resnet_batch_norm": build_model("resnet", IMAGE, num_classes=3, widths=(4, 6), depths=(1, 1)),
    "resnet_group_norm": build_model(
        "resnet", IMAGE, num_classes=3, widths=(6,), depths=(1,), norm="group", norm_groups=2
    ),
    "vit": build_model("vit", IMAGE, num_classes=3, patch=2, dim=6, depth=1, num_heads=2, mlp_dim=5),
    "encoder_decoder": build_model("encoder_decoder", IMAGE, num_classes=3, widths=(4, 6)),
    "resnet_large_stem": build_model(
        "resnet", (8, 8, 2), num_classes=3, widths=(2, 3), depths=(1, 1), block="bottleneck", inputs="large"
    ),
    "gpt2": build_model("gpt2", (4,), num_classes=3, pad=0, vocab=11, length=4, **TOWER),
    "clip": build_model("clip_classifier", IMAGE, num_classes=3, embed_dim=7, image={**TOWER, "patch": 2}),
}
TRANSFORMERS = ("vit", "gpt2", "clip")

CANNOT = {
    (name, "encoder_decoder"): "answers with images, not with one vector for every input"
    for name in ("best", "em_ensemble", "fisher", "surgery")
}
"""Pairs that are refused, with the reason."""

RUN_NETWORKS = {"adamerging", "concrete", "fisher", "pareto", "regmean", "smile", "surgery"}
OF_BLOCKS = {
    "depth_upscaling": {"layers": "0,0"},
    "moe_merging": {},
    "moe_upscaling": {"num_experts": 2},
    "wemoe": {"num_steps": 2},
}
"""Methods that find blocks by their names: here on transformers, on other networks in `mixing/`."""

LEAF_BY_LEAF = IN_PLACE - RUN_NETWORKS - set(OF_BLOCKS)
"""Methods that never run the networks, to which a larger model is only more leaves: shown on transformers."""

LOOSE: dict[tuple[str, str], str] = {}
"""Pairs in which a permuted copy is merged without its function being kept, with the reason."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"),
    [(name, network) for name in METHODS for network in MODELS if name not in LEAF_BY_LEAF | set(OF_BLOCKS)],
)
def test_a_permuted_copy(name, network):
    model = MODELS[network]
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
    if name not in ENSEMBLES | OTHER_STRUCTURE:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, params)
    got = result.apply_fn(result.variants.get("hard", result.params), x)
    if name not in NOT_ITSELF and (name, network) not in LOOSE:
        expected = model.apply(params, x)
        np.testing.assert_allclose(jax.nn.log_softmax(got), jax.nn.log_softmax(expected), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("network", TRANSFORMERS)
@pytest.mark.parametrize("name", sorted(LEAF_BY_LEAF | set(OF_BLOCKS)))
def test_fine_tuned_transformers(name, network):
    model = MODELS[network]
    base, models = fine_tuned(model)
    options = OF_BLOCKS.get(name, METHODS[name]) | ({"base": base} if name in NEED_BASE else {})
    x = inputs_for(model)
    result = af.merge_many(models, model.perm_spec, x, method=name, **options)
    chex.assert_tree_all_finite(result.params)
    if name in LEAF_BY_LEAF:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
    chex.assert_shape(result.apply_fn(result.params, x), (24, 3))
