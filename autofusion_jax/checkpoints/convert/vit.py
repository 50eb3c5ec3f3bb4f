"""transformers' `ViTForImageClassification`."""

from autofusion_jax.checkpoints.convert.format import (
    Config,
    Format,
    Network,
    activation,
    depth,
    image_size,
    labels,
    number,
    one_of,
    size,
    tower,
)
from autofusion_jax.checkpoints.convert.rules import Rule, expand, heads, heads_out, linear, norm, patches

PATCHES = "vit.embeddings.patch_embeddings.projection.weight"
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
    options = {"num_classes": config["num_labels"], "patch": config["patch_size"], **tower(config)}
    return Network("vit", (config["image_size"], config["image_size"], config["num_channels"]), options)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    kernel = patches(config["patch_size"])
    found = expand([(kernel, "embed/kernel", PATCHES)], "params/", "")
    found += expand(REST, "params/", "")
    for i in range(config["num_hidden_layers"]):
        found += expand(BLOCK, f"params/block_{i}/", f"vit.encoder.layer.{i}.")
    return found


FORMAT = Format(
    architecture="ViTForImageClassification",
    fields={
        "hidden_size": size(768, "vit.embeddings.cls_token", axis=2),
        "num_hidden_layers": depth(12, "vit.encoder.layer."),
        "num_attention_heads": size(12, divides="hidden_size"),
        "intermediate_size": size(3072, "vit.encoder.layer.0.intermediate.dense.weight"),
        "hidden_act": activation("gelu"),
        "layer_norm_eps": number(1e-12),
        "patch_size": size(16, PATCHES, axis=2),
        "image_size": image_size(224, "vit.embeddings.position_embeddings"),
        "num_channels": size(3, PATCHES, axis=1),
        "qkv_bias": one_of(True),
        "hidden_dropout_prob": number(0.0),
        "attention_probs_dropout_prob": number(0.0),
        **labels("classifier.weight"),
    },
    network=network,
    rules=rules,
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
