"""The table of contracts on transformers: every method on fine-tuned networks, or with a permuted copy.

In a file of its own: the programs of all methods on all networks are more than one process can hold.
"""

import chex
import pytest

import autofusion_jax as af
from autofusion_jax.models.registry import build_model
from tests.conftest import fine_tuned, inputs_for
from tests.merging.test_contracts import LEAF_BY_LEAF, METHODS, NEED_BASE, OF_BLOCKS, OTHER_PROGRAM
from tests.merging.test_contracts_models import COPIES, IMAGE, MODELS, expect_copy_merged

TOWER = {"dim": 6, "depth": 1, "num_heads": 2, "mlp_dim": 5}
TRANSFORMERS = {
    "vit": MODELS["vit"],
    "gpt2": build_model("gpt2", (4,), num_classes=3, pad=0, vocab=11, length=4, **TOWER),
    "clip": build_model("clip_classifier", IMAGE, num_classes=3, embed_dim=7, image={**TOWER, "patch": 2}),
}
BLOCKS = {
    "depth_upscaling": {"layers": "0,0"},
    "moe_merging": {},
    "moe_upscaling": {"num_experts": 2},
    "wemoe": {"num_steps": 2},
}
"""Options of the methods that find blocks by their names."""


def test_every_method_is_here():
    assert set(COPIES) | LEAF_BY_LEAF | set(BLOCKS) == set(METHODS) and set(BLOCKS) == OF_BLOCKS


@pytest.mark.slow
@pytest.mark.parametrize("network", [network for network in TRANSFORMERS if network not in MODELS])
@pytest.mark.parametrize("name", COPIES)
def test_a_permuted_copy(name, network):
    expect_copy_merged(name, network, TRANSFORMERS[network])


@pytest.mark.slow
@pytest.mark.parametrize("network", TRANSFORMERS)
@pytest.mark.parametrize("name", sorted(LEAF_BY_LEAF | OF_BLOCKS))
def test_fine_tuned_transformers(name, network):
    model = TRANSFORMERS[network]
    base, models = fine_tuned(model)
    options = BLOCKS.get(name, METHODS[name]) | ({"base": base} if name in NEED_BASE else {})
    x = inputs_for(model)
    result = af.merge_many(models, model.perm_spec, x, method=name, **options)
    chex.assert_tree_all_finite(result.params)
    if name in LEAF_BY_LEAF - OTHER_PROGRAM:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
    chex.assert_shape(result.apply_fn(result.params, x), (24, 3))
