"""transformers' `CLIPModel`."""

from autofusion_jax.checkpoints.convert.format import Config, Format, Network, fill, sizes, tower
from autofusion_jax.checkpoints.convert.rules import Rule, expand, heads, heads_out, linear, norm, patches

BLOCK = (
    (norm, "norm_0", "layer_norm1"),
    (heads, "attention/query", "self_attn.q_proj"),
    (heads, "attention/key", "self_attn.k_proj"),
    (heads, "attention/value", "self_attn.v_proj"),
    (heads_out, "attention/out", "self_attn.out_proj"),
    (norm, "norm_1", "layer_norm2"),
    (linear, "mlp_0", "mlp.fc1"),
    (linear, "mlp_1", "mlp.fc2"),
)
REST = (
    ("d -> d", "image_tower/cls", "vision_model.embeddings.class_embedding"),
    ("t d -> t d", "image_tower/positions", "vision_model.embeddings.position_embedding.weight"),
    (norm, "image_tower/norm_first", "vision_model.pre_layrnorm"),
    (norm, "image_tower/norm", "vision_model.post_layernorm"),
    ("i o -> o i", "image_projection/kernel", "visual_projection.weight"),
    ("v d -> v d", "text_tower/embed/embedding", "text_model.embeddings.token_embedding.weight"),
    ("t d -> t d", "text_tower/positions", "text_model.embeddings.position_embedding.weight"),
    (norm, "text_tower/norm", "text_model.final_layer_norm"),
    ("i o -> o i", "text_projection/kernel", "text_projection.weight"),
    ("->", "logit_scale", "logit_scale"),
)
TOWER = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
IMAGE = TOWER | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
TEXT = TOWER | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}

LARGEST = 2
"""An end token of configs from before it was right: the largest token of a text is meant."""


def network(config: Config) -> Network:
    """The network that a config describes."""
    image, text = _towers(config)
    size, channels, patch = sizes(image, "image_size", "num_channels", "patch_size")
    vocab, length = sizes(text, "vocab_size", "max_position_embeddings")
    options = {
        "embed_dim": sizes(config, "projection_dim")[0],
        "image": {"patch": patch, **tower(image)},
        "text": {"vocab": vocab, "length": length, **tower(text)},
        "end": None if text["eos_token_id"] == LARGEST else text["eos_token_id"],
    }
    return Network("clip", {"images": (size, size, channels), "tokens": (length,)}, options)


def rules(config: Config) -> list[Rule]:
    """The table."""
    image, text = _towers(config)
    kernel = patches(image["patch_size"])
    first = (kernel, "image_tower/embed/kernel", "vision_model.embeddings.patch_embedding.weight")
    found = expand((first, *REST), "params/", "")
    for ours, theirs, side in (("image_tower", "vision_model", image), ("text_tower", "text_model", text)):
        for i in range(side["num_hidden_layers"]):
            found += expand(BLOCK, f"params/{ours}/block_{i}/", f"{theirs}.encoder.layers.{i}.")
    return found


def _towers(config: Config) -> tuple[Config, Config]:
    return fill(config["vision_config"], IMAGE), fill(config["text_config"], TEXT)


FORMAT = Format(
    architecture="CLIPModel",
    defaults={"projection_dim": 512, "vision_config": {}, "text_config": {}},
    network=network,
    rules=rules,
    buffers=(r"(text|vision)_model\.embeddings\.position_ids",),
)
