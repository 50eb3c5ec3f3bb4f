"""transformers' `CLIPModel`, and `CLIPVisionModel`, the tower for images alone."""

from pathlib import Path

from autofusion_jax.checkpoints.convert.format import (
    Config,
    Fields,
    Format,
    Network,
    Tensors,
    activation,
    depth,
    image_size,
    number,
    section,
    size,
    token,
    tower,
)
from autofusion_jax.checkpoints.convert.rules import (
    Rule,
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
VISION, TEXT = "vision_model.", "text_model."


def _tower_fields(mlp_dim: int, num_heads: int, *prefixes: str) -> Fields:
    names = [f"{prefix}encoder.layers." for prefix in prefixes]
    return {
        "num_hidden_layers": depth(12, *names),
        "intermediate_size": size(mlp_dim, *(f"{name}0.mlp.fc1.weight" for name in names)),
        "num_attention_heads": size(num_heads, divides="hidden_size"),
        "hidden_act": activation("quick_gelu"),
        "layer_norm_eps": number(1e-5),
        "attention_dropout": number(0.0),
    }


def _image_fields(*prefixes: str) -> Fields:
    cls, patches, positions = (
        [f"{prefix}embeddings.{name}" for prefix in prefixes]
        for name in ("class_embedding", "patch_embedding.weight", "position_embedding.weight")
    )
    return {
        "hidden_size": size(768, *cls),
        "patch_size": size(32, *patches, axis=2),
        "image_size": image_size(224, *positions),
        "num_channels": size(3, *patches, axis=1),
        **_tower_fields(3072, 12, *prefixes),
    }


TEXT_FIELDS = {
    "vocab_size": size(49408, f"{TEXT}embeddings.token_embedding.weight"),
    "hidden_size": size(512, f"{TEXT}embeddings.token_embedding.weight", axis=1),
    "max_position_embeddings": size(77, f"{TEXT}embeddings.position_embedding.weight"),
    "eos_token_id": token(49407),
    **_tower_fields(2048, 8, TEXT),
}
LARGEST = 2
"""An end token of configs from before it was right: the largest token of a text is meant."""


def network(config: Config) -> Network:
    """The network that a config describes."""
    image, text = config["vision_config"], config["text_config"]
    length = text["max_position_embeddings"]
    options = {
        "embed_dim": config["projection_dim"],
        "image": {"patch": image["patch_size"], **tower(image)},
        "text": {"vocab": text["vocab_size"], "length": length, **tower(text)},
        "end": None if text["eos_token_id"] == LARGEST else text["eos_token_id"],
    }
    return Network("clip", {"images": _image_shape(image), "tokens": (length,)}, options)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    image, text = config["vision_config"], config["text_config"]
    found = _image_rules("params/image_tower/", VISION, image) + expand(REST, "params/", "")
    return found + _block_rules("params/text_tower/", TEXT, text)


def image_network(config: Config) -> Network:
    """The tower for images that a config of its own describes."""
    return Network("clip_image_tower", _image_shape(config), {"patch": config["patch_size"], **tower(config)})


def image_rules(config: Config) -> list[Rule]:
    """The table of the tower for images alone."""
    return _image_rules("params/", config["prefix"], config)


def _prefix(source: Path, tensors: Tensors, config: Config) -> Config:
    """The prefix of the tensors of a tower for images alone: none since transformers 5."""
    return {"prefix": VISION if any(name.startswith(VISION) for name in tensors) else ""}


def _image_rules(ours: str, theirs: str, config: Config) -> list[Rule]:
    kernel = (patches(config["patch_size"]), "embed/kernel", "embeddings.patch_embedding.weight")
    return expand((kernel, *IMAGE_REST), ours, theirs) + _block_rules(ours, theirs, config)


def _block_rules(ours: str, theirs: str, config: Config) -> list[Rule]:
    numbers = range(config["num_hidden_layers"])
    return [r for i in numbers for r in expand(BLOCK, f"{ours}block_{i}/", f"{theirs}encoder.layers.{i}.")]


def _image_shape(config: Config) -> tuple[int, int, int]:
    return (config["image_size"], config["image_size"], config["num_channels"])


FORMAT = Format(
    architecture="CLIPModel",
    fields={
        "projection_dim": size(512, "text_projection.weight"),
        "vision_config": section(_image_fields(VISION)),
        "text_config": section(TEXT_FIELDS),
    },
    network=network,
    rules=rules,
    buffers=(r"(text|vision)_model\.embeddings\.position_ids",),
)
IMAGE_FORMAT = Format(
    architecture="CLIPVisionModel",
    fields=_image_fields(VISION, ""),
    network=image_network,
    rules=image_rules,
    buffers=(r"(vision_model\.)?embeddings\.position_ids",),
    infer=_prefix,
)
