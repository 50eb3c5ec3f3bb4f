"""transformers' `ViTForImageClassification`."""

from autofusion_jax.checkpoints.convert.format import Config, Format, Network, num_labels, sizes, tower
from autofusion_jax.checkpoints.convert.rules import Rule, expand, heads, heads_out, linear, norm, patches

BLOCK = (
    (norm, "norm_0", "layernorm_before"),
    (heads, "attention/query", "attention.attention.query"),
    (heads, "attention/key", "attention.attention.key"),
    (heads, "attention/value", "attention.attention.value"),
    (heads_out, "attention/out", "attention.output.dense"),
    (norm, "norm_1", "layernorm_after"),
    (linear, "mlp_0", "intermediate.dense"),
    (linear, "mlp_1", "output.dense"),
)
REST = (
    ("d -> 1 1 d", "cls", "vit.embeddings.cls_token"),
    ("t d -> 1 t d", "positions", "vit.embeddings.position_embeddings"),
    ("d -> d", "embed/bias", "vit.embeddings.patch_embeddings.projection.bias"),
    (norm, "norm", "vit.layernorm"),
    (linear, "head", "classifier"),
)


def network(config: Config) -> Network:
    """The network that a config describes."""
    size, channels, patch = sizes(config, "image_size", "num_channels", "patch_size")
    options = {"num_classes": num_labels(config), "patch": patch, **tower(config)}
    return Network("vit", (size, size, channels), options)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    kernel = patches(config["patch_size"])
    found = expand(
        [(kernel, "embed/kernel", "vit.embeddings.patch_embeddings.projection.weight")], "params/", ""
    )
    found += expand(REST, "params/", "")
    for i in range(config["num_hidden_layers"]):
        found += expand(BLOCK, f"params/block_{i}/", f"vit.encoder.layer.{i}.")
    return found


FORMAT = Format(
    architecture="ViTForImageClassification",
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
    },
    network=network,
    rules=rules,
    fixed={"qkv_bias": True},
    modules={
        r"^vit\.layers\.": "vit.encoder.layer.",
        r"\.attention\.q_proj\.": ".attention.attention.query.",
        r"\.attention\.k_proj\.": ".attention.attention.key.",
        r"\.attention\.v_proj\.": ".attention.attention.value.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    },
)
