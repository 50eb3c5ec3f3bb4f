import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.models.layers import LOGIT_SCALE, class_vectors
from autofusion_jax.models.registry import MODELS, build_model
from tests.conftest import inputs_for, params_for

IMAGE = (4, 4, 2)
TINY = {"widths": (4, 6), "num_classes": 3}
VIT = {"patch": 2, "dim": 6, "depth": 1, "num_heads": 2, "mlp_dim": 5, "num_classes": 3}
TOWER = {"dim": 8, "depth": 1, "num_heads": 2, "mlp_dim": 5, "activation": "quick_gelu"}
TEXT = TOWER | {"vocab": 11, "length": 8}
T5 = {
    "vocab": 11, "source_len": 5, "dim": 6, "depth": 1, "decoder_depth": 1, "num_heads": 2, "head_dim": 3,
    "mlp_dim": 5, "num_buckets": 8, "max_distance": 12,
}  # fmt: skip


def block(tower="", dim=8, depth=1):
    """Groups of a tower's blocks: units of a head are nested in heads, which Q, K, V and O share."""
    groups = {f"{tower}embed": dim}
    for i in range(depth):
        heads = f"{tower}block_{i}/attention.heads"
        groups |= {
            heads: 2,
            f"{tower}block_{i}/attention/query.head_dim": (dim // 2, (heads,)),
            f"{tower}block_{i}/attention/value.head_dim": (dim // 2, (heads,)),
            f"{tower}block_{i}/mlp_0": 5,
        }
    return groups


def t5_groups():
    """Units of T5: all self attentions of a stack share their heads, as they share the bias of positions."""
    groups = {"shared": 6, "encoder/block_0/mlp_gate": 5, "decoder/block_0/mlp_gate": 5}
    for name, heads in [
        ("encoder/block_0/attention", "encoder.heads"),
        ("decoder/block_0/attention", "decoder.heads"),
        ("decoder/block_0/cross_attention", "decoder/block_0/cross_attention.heads"),
    ]:
        groups |= {heads: 2, f"{name}/query.head_dim": (3, (heads,)), f"{name}/value.head_dim": (3, (heads,))}
    return groups


CASES = {
    "mlp": ((4, 4), {"widths": (12, 10), "num_classes": 3}, {"dense_0": 12, "dense_1": 10}),
    "mlp, bias-free, cosine": (
        (4, 4),
        {"widths": (12, 10), "num_classes": 4, "use_bias": False, "head": "cosine", "embed_dim": 7},
        {"dense_0": 12, "dense_1": 10},
    ),
    "vgg": (IMAGE, {**TINY, "pool_after": (0,)}, {"conv_0": 4, "conv_1": 6}),
    "vgg, BatchNorm, cosine": (
        IMAGE,
        {**TINY, "pool_after": (0,), "norm": "batch", "head": "cosine", "embed_dim": 7},
        {"conv_0": 4, "conv_1": 6},
    ),
    "resnet": (
        IMAGE,
        {**TINY, "depths": (1, 1)},
        {"stem": 4, "stage0_block0/conv_0": 4, "stage1_block0/conv_0": 6, "stage1_block0/conv_1": 6},
    ),
    "resnet, large inputs": (
        (9, 8, 2),
        {"widths": (2, 3), "depths": (1, 1), "num_classes": 3, "block": "bottleneck", "inputs": "large"},
        {
            "stem": 2,
            "stage0_block0/conv_0": 2,
            "stage0_block0/conv_1": 2,
            "stage0_block0/conv_2": 8,
            "stage1_block0/conv_0": 3,
            "stage1_block0/conv_1": 3,
            "stage1_block0/conv_2": 12,
        },
    ),
    "resnet, bottleneck, LayerNorm": (
        IMAGE,
        {**TINY, "widths": (3,), "depths": (1,), "block": "bottleneck", "norm": "layer"},
        {"stem": 3, "stage0_block0/conv_0": 3, "stage0_block0/conv_1": 3, "stage0_block0/conv_2": 12},
    ),
    "resnet, GroupNorm": (
        IMAGE,
        {**TINY, "widths": (6,), "depths": (1,), "norm": "group", "norm_groups": 2},
        {
            "stem.groups": 2,
            "stem.units": (3, ("stem.groups",)),
            "stage0_block0/conv_0.groups": 2,
            "stage0_block0/conv_0.units": (3, ("stage0_block0/conv_0.groups",)),
        },
    ),
    "vit": (IMAGE, VIT, block(dim=6)),
    "gpt2": ((6,), TEXT | {"depth": 2, "num_classes": 3, "pad": 0}, block(depth=2)),
    "clip": (
        {"images": IMAGE, "tokens": (6,)},
        {"embed_dim": 7, "image": TOWER | {"patch": 2}, "text": TEXT},
        block("image_tower/") | {"image_projection": 7} | block("text_tower/"),
    ),
    "clip_classifier": (
        IMAGE,
        {"embed_dim": 7, "image": TOWER | {"patch": 2}, "num_classes": 3},
        block("image_tower/") | {"image_projection": 7},
    ),
    "clip_image_tower": (IMAGE, TOWER | {"patch": 2}, {n: g for n, g in block().items() if n != "embed"}),
    "t5": ((9,), T5, t5_groups()),
    "encoder_decoder": (IMAGE, TINY, {"encoder_0": 4, "encoder_1": 6, "decoder_0": 4}),
}


def build(case):
    shape, options, _ = CASES[case]
    return build_model(case.split(",")[0], shape, **options)


SLOW = {
    "vgg, BatchNorm, cosine", "resnet", "resnet, large inputs", "resnet, bottleneck, LayerNorm",
    "resnet, GroupNorm", "gpt2", "clip", "clip_classifier", "clip_image_tower", "t5",
}  # fmt: skip


def test_every_model_is_tested():
    assert {case.split(",")[0] for case in CASES} == set(MODELS)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
)
def test_groups_and_invariance(case):
    model, expected = build(case), CASES[case][2]
    groups = {name: (g.size, g.nested_in) for name, g in model.perm_spec.groups.items()}
    assert groups == {n: g if isinstance(g, tuple) else (g, ()) for n, g in expected.items()}
    assert not model.perm_spec.notes
    assert af.check_perm_spec(model.perm_spec, params_for(model, 0), inputs_for(model)) < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "num_groups"),
    [
        ("resnet", {}, 3 + 9),
        pytest.param("resnet", {"depths": (4, 4, 4)}, 3 + 12, marks=pytest.mark.slow),
        pytest.param(
            "resnet",
            {
                "widths": (64, 128, 256, 512),
                "depths": (3, 4, 6, 3),
                "block": "bottleneck",
                "inputs": "large",
            },
            5 + 2 * 16,
            marks=pytest.mark.slow,
        ),
        (
            "vgg",
            {
                "widths": (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
                "pool_after": (1, 3, 6, 9, 12),
                "norm": "batch",
            },
            13,
        ),
    ],
    ids=["ResNet20", "ResNet26", "ResNet50", "VGG16"],
)
def test_the_usual_forms(name, options, num_groups):
    model = build_model(name, (32, 32, 3), num_classes=10, **options)
    spec = model.perm_spec
    assert len(spec.groups) == num_groups
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    kernels = [leaf for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4]
    assert len(kernels) == {12: 21, 15: 27, 37: 53, 13: 13}[num_groups]


def test_the_head_reads_the_features(model):
    params, x = params_for(model, 0), inputs_for(model)
    head = params["params"]["head"]
    expected = model.features(params, x) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(params, x), expected, atol=1e-5)
    replaced = model.with_head(params, jnp.zeros_like(head["kernel"]), jnp.ones_like(head["bias"]))
    np.testing.assert_allclose(model.apply(replaced, x), 1.0)


@pytest.mark.parametrize(
    ("case", "found"),
    [
        ("mlp, bias-free, cosine", r"projection/kernel \(10, 7\)"),
        ("encoder_decoder", r"kernel \(1, 1, 4, 3\)"),
    ],
)
def test_other_heads_are_refused(case, found):
    model = build(case)
    params = model.init(jax.random.key(0))
    message = "head must be a dense layer with bias; got .*" + found
    with pytest.raises(ValueError, match=r"Model.features: " + message):
        model.features(params, inputs_for(model))
    with pytest.raises(ValueError, match=r"Model.with_head: " + message):
        model.with_head(params, jnp.zeros((10, 4)), jnp.zeros(4))


def test_a_cosine_head_compares_with_fixed_class_vectors():
    model = build("mlp, bias-free, cosine")
    params, x = params_for(model, 0), inputs_for(model)
    assert "bias" not in str(jax.tree.structure(params))
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["params"]["dense_0"]["kernel"])
    hidden = jax.nn.relu(hidden @ params["params"]["dense_1"]["kernel"])
    embedding = np.asarray(hidden @ params["params"]["head"]["projection"]["kernel"])
    vectors = class_vectors(4, 7)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-6)
    cosines = embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ vectors
    np.testing.assert_allclose(model.apply(params, x), LOGIT_SCALE * cosines, atol=1e-3)


@pytest.mark.parametrize("case", ["resnet", "vgg, BatchNorm, cosine", "encoder_decoder"])
def test_training_mode_updates_the_statistics_and_does_not_read_them(case):
    model = build(case)
    params, x = params_for(model, 0), inputs_for(model)
    assert model.train_apply == model.train_apply  # one function to jit

    def total(stats, x):
        outputs, updated = model.train_apply({**params, "batch_stats": stats}, x)
        return jnp.sum(outputs), updated

    grads, updated = jax.jit(jax.grad(total, has_aux=True))(params["batch_stats"], x)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))
    assert jax.tree.structure(updated) == jax.tree.structure(params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), params, updated)
    assert all(jax.tree.leaves(moved["batch_stats"])) and not any(jax.tree.leaves(moved["params"]))


def test_training_mode_is_none_without_statistics(mlp):
    assert mlp.train_apply is None


def test_the_vgg_flattens_more_than_one_pixel(vgg):
    assert "in 16 x conv_1:6" in str(vgg.perm_spec)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vg", {}, "unknown model 'vg'. Did you mean 'vgg'"),
        ("resnet", {"norm": "bach"}, "unknown norm 'bach'. Did you mean 'batch'"),
        ("resnet", {"inputs": "big"}, "unknown inputs 'big'"),
        ("resnet", {"block": "basik"}, "unknown block 'basik'. Did you mean 'basic'"),
        ("mlp", {"widths": (3,), "head": "cos"}, "unknown head 'cos'. Did you mean 'cosine'"),
        ("vit", {"pool": "token"}, "unknown pool 'token'"),
        ("vit", {"patch": 3}, "patch must be a divisor of the image's height and width; got 3 for 4 x 4"),
        ("vit", {"activation": "gelu_new"}, "unknown activation 'gelu_new'"),
        ("encoder_decoder", {"widths": (2,) * 4}, "got 4 widths for 4 x 4 pixels"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(build_model(name, IMAGE, num_classes=2, **options).init, jax.random.key(0))
