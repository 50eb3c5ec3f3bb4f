"""transformers' `CLIPModel`, and `CLIPVisionModel`, the tower for images alone."""

from collections.abc import Mapping

from autofusion_jax.checkpoints.convert.format import Config, Format, Network, fill, sizes, tower
from autofusion_jax.checkpoints.convert.rules import (
    Rule,
    Stored,
    expand,
    heads,
    heads_out,
    linear,
    norm,
    patches,
)

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
IMAGE_REST = (
    ("d -> d", "cls", "embeddings.class_embedding"),
    ("t d -> t d", "positions", "embeddings.position_embedding.weight"),
    (norm, "norm_first", "pre_layrnorm"),
    (norm, "norm", "post_layernorm"),
)
REST = (
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

VISION = "vision_model."
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
    """The table of rules."""
    image, text = _towers(config)
    found = _image_rules("params/image_tower/", VISION, image) + expand(REST, "params/", "")
    return found + _block_rules("params/text_tower/", "text_model.", text)


def image_network(config: Config) -> Network:
    """The tower for images that a config of its own describes."""
    size, channels, patch = sizes(config, "image_size", "num_channels", "patch_size")
    return Network("clip_image_tower", (size, size, channels), {"patch": patch, **tower(config)})


def image_rules(config: Config) -> list[Rule]:
    """The table of the tower for images alone."""
    return _image_rules("params/", config["prefix"], config)


def _prefix(tensors: Mapping[str, Stored]) -> Config:
    """The prefix of the tensors of a tower for images alone: none since transformers 5."""
    return {"prefix": VISION if any(name.startswith(VISION) for name in tensors) else ""}


def _image_rules(ours: str, theirs: str, config: Config) -> list[Rule]:
    kernel = (patches(config["patch_size"]), "embed/kernel", "embeddings.patch_embedding.weight")
    return expand((kernel, *IMAGE_REST), ours, theirs) + _block_rules(ours, theirs, config)


def _block_rules(ours: str, theirs: str, config: Config) -> list[Rule]:
    numbers = range(config["num_hidden_layers"])
    return [r for i in numbers for r in expand(BLOCK, f"{ours}block_{i}/", f"{theirs}encoder.layers.{i}.")]


def _towers(config: Config) -> tuple[Config, Config]:
    return fill(config["vision_config"], IMAGE), fill(config["text_config"], TEXT)


FORMAT = Format(
    architecture="CLIPModel",
    defaults={"projection_dim": 512, "vision_config": {}, "text_config": {}},
    network=network,
    rules=rules,
    buffers=(r"(text|vision)_model\.embeddings\.position_ids",),
)
IMAGE_FORMAT = Format(
    architecture="CLIPVisionModel",
    defaults=IMAGE,
    network=image_network,
    rules=image_rules,
    buffers=(r"(vision_model\.)?embeddings\.position_ids",),
    infer=_prefix,
)
