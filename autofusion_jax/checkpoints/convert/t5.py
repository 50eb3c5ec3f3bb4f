"""transformers' `T5ForConditionalGeneration`, in the form of version 1.1 and of Flan-T5."""

from collections.abc import Mapping

from autofusion_jax.checkpoints.convert.format import Config, Format, Network, sizes
from autofusion_jax.checkpoints.convert.rules import Rule, Stored, expand

HEAD = "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
UNUSED = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
"""A tensor in files of old versions."""

FEED_FORWARD = (
    ("i o -> o i", "mlp_gate/kernel", "wi_0.weight"),
    ("i o -> o i", "mlp_0/kernel", "wi_1.weight"),
    ("i o -> o i", "mlp_1/kernel", "wo.weight"),
)


ATTENTION = (
    ("i h d -> (h d) i", "/query/kernel", ".q.weight"),
    ("i h d -> (h d) i", "/key/kernel", ".k.weight"),
    ("i h d -> (h d) i", "/value/kernel", ".v.weight"),
    ("h d o -> o (h d)", "/out/kernel", ".o.weight"),
)


def infer(tensors: Mapping[str, Stored]) -> Config:
    """Tell whether the head is a tensor of its own, which config.json does not say."""
    return {"own_head": HEAD in tensors}


def network(config: Config) -> Network:
    """The network that a config describes; `n_positions` tokens of source and of target."""
    fields = {
        "vocab": "vocab_size",
        "source_len": "n_positions",
        "dim": "d_model",
        "depth": "num_layers",
        "num_heads": "num_heads",
        "head_dim": "d_kv",
        "mlp_dim": "d_ff",
        "num_buckets": "relative_attention_num_buckets",
        "max_distance": "relative_attention_max_distance",
    }
    options = dict(zip(fields, sizes(config, *fields.values())))
    scale = config["scale_decoder_outputs"]
    more = {
        "decoder_depth": decoder_depth(config),
        "epsilon": config["layer_norm_epsilon"],
        "tied": not config["own_head"],
        "scale_outputs": config["tie_word_embeddings"] if scale is None else scale,
    }
    return Network("t5", (2 * options["source_len"],), options | more)


def decoder_depth(config: Config) -> int:
    """Blocks of the decoder: as many as the encoder has, unless config.json says otherwise."""
    return config["num_decoder_layers"] or config["num_layers"]


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    found = [Rule(("params/shared/embedding",), "shared.weight", "v d -> v d", copies=COPIES)]
    if config["own_head"]:
        found.append(Rule(("params/head/kernel",), HEAD, "i o -> o i"))
    attentions = [
        ("attention", "norm_0", "SelfAttention"),
        ("cross_attention", "cross_norm", "EncDecAttention"),
    ]
    found += stack("encoder", config["num_layers"], attentions[:1])
    return found + stack("decoder", decoder_depth(config), attentions)


def stack(name: str, depth: int, attentions: list[tuple[str, str, str]]) -> list[Rule]:
    """The table of the encoder or of the decoder; `attentions` are our two names and theirs, in order."""
    positions = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    norm = "d -> d"
    table = [
        ("b h -> b h", "positions/embedding", positions),
        (norm, "norm/scale", "final_layer_norm.weight"),
    ]
    for i in range(depth):
        for number, (ours, our_norm, theirs) in enumerate(attentions):
            layer = f"block.{i}.layer.{number}."
            table += [
                (kind, f"block_{i}/{ours}{leaf}", layer + theirs + end) for kind, leaf, end in ATTENTION
            ]
            table.append((norm, f"block_{i}/{our_norm}/scale", layer + "layer_norm.weight"))
        layer = f"block.{i}.layer.{len(attentions)}."
        table.append((norm, f"block_{i}/norm_1/scale", layer + "layer_norm.weight"))
        dense = layer + "DenseReluDense."
        table += [(kind, f"block_{i}/{ours}", dense + theirs) for kind, ours, theirs in FEED_FORWARD]
    return expand(table, f"params/{name}/", f"{name}.")


FORMAT = Format(
    architecture="T5ForConditionalGeneration",
    defaults={
        "vocab_size": 32128,
        "n_positions": 512,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "scale_decoder_outputs": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    network=network,
    rules=rules,
    infer=infer,
    fixed={
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    buffers=(UNUSED,),
)
