"""transformers' `T5ForConditionalGeneration`, in the form of version 1.1 and of Flan-T5."""

from pathlib import Path
from typing import Any

import numpy as np

from autofusion_jax.checkpoints.convert.format import (
    Config,
    Field,
    Format,
    Network,
    Tensors,
    Told,
    axis_of,
    depth,
    is_size,
    number,
    one_of,
    size,
)
from autofusion_jax.checkpoints.convert.rules import Rule, expand
from autofusion_jax.validation import require

SHARED, HEAD = "shared.weight", "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
POSITIONS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
LONGEST = 1 << 14
"""Tokens of a source or a target: the network has a table of the distances of all pairs."""
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


def infer(source: Path, tensors: Tensors, config: Config) -> Config:
    """Tell whether the head is a tensor of its own; a tied one may be in the file as a copy of the embedding.

    Raises:
        ValueError: config.json ties a head that is not the embedding; readers differ in which one they take.
    """
    if HEAD not in tensors or not config["tie_word_embeddings"]:
        return {"own_head": HEAD in tensors}
    head, shared = tensors[HEAD], tensors[SHARED]
    require(
        head.shape == shared.shape and np.array_equal(head.read(), shared.read()),
        "load_pretrained", f"{source}[{HEAD!r}]", f"equal to {SHARED!r}, as tie_word_embeddings says",
        "other numbers",
        "If the head is its own, load it with config={'tie_word_embeddings': False}.",
    )  # fmt: skip
    return {"own_head": False}


def network(config: Config) -> Network:
    """The network that a config describes; `n_positions` tokens of source and of target."""
    fields = {
        "vocab": "vocab_size",
        "source_len": "n_positions",
        "dim": "d_model",
        "depth": "num_layers",
        "decoder_depth": "num_decoder_layers",
        "num_heads": "num_heads",
        "head_dim": "d_kv",
        "mlp_dim": "d_ff",
        "num_buckets": "relative_attention_num_buckets",
        "max_distance": "relative_attention_max_distance",
    }
    options = {ours: config[name] for ours, name in fields.items()}
    scale = config["scale_decoder_outputs"]
    more = {
        "epsilon": float(config["layer_norm_epsilon"]),
        "tied": not config["own_head"],
        "scale_outputs": config["tie_word_embeddings"] if scale is None else scale,
    }
    return Network("t5", (2 * options["source_len"],), options | more)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    copies = COPIES if config["own_head"] else (*COPIES, HEAD)
    found = [Rule(("params/shared/embedding",), SHARED, "v d -> v d", copies=copies)]
    if config["own_head"]:
        found.append(Rule(("params/head/kernel",), HEAD, "i o -> o i"))
    attentions = [
        ("attention", "norm_0", "SelfAttention"),
        ("cross_attention", "cross_norm", "EncDecAttention"),
    ]
    found += stack("encoder", config["num_layers"], attentions[:1])
    return found + stack("decoder", config["num_decoder_layers"], attentions)


def stack(name: str, depth: int, attentions: list[tuple[str, str, str]]) -> list[Rule]:
    """The table of the encoder or of the decoder; `attentions` are our two names and theirs, in order."""
    norm = "d -> d"
    table = [
        ("b h -> b h", "positions/embedding", POSITIONS),
        (norm, "norm/scale", "final_layer_norm.weight"),
    ]
    for i in range(depth):
        for place, (ours, our_norm, theirs) in enumerate(attentions):
            layer = f"block.{i}.layer.{place}."
            table += [
                (kind, f"block_{i}/{ours}{leaf}", layer + theirs + end) for kind, leaf, end in ATTENTION
            ]
            table.append((norm, f"block_{i}/{our_norm}/scale", layer + "layer_norm.weight"))
        layer = f"block.{i}.layer.{len(attentions)}."
        table.append((norm, f"block_{i}/norm_1/scale", layer + "layer_norm.weight"))
        dense = layer + "DenseReluDense."
        table += [(kind, f"block_{i}/{ours}", dense + theirs) for kind, ours, theirs in FEED_FORWARD]
    return expand(table, f"params/{name}/", f"{name}.")


def _length(value: Any, config: Config) -> bool:
    return is_size(value) and value <= LONGEST


def _distance(value: Any, config: Config) -> bool:
    return is_size(value) and 2 * value > config["relative_attention_num_buckets"] >= 4


def _head_dim(tensors: Tensors, config: Config) -> Told:
    width = axis_of(tensors, (QUERY,), 0)
    return None if width is None else width // config["num_heads"], repr(QUERY)


FORMAT = Format(
    architecture="T5ForConditionalGeneration",
    fields={
        "vocab_size": size(32128, SHARED),
        "n_positions": Field(512, f"an integer from 1 to {LONGEST}", _length),
        "d_model": size(512, SHARED, axis=1),
        "num_heads": size(8, f"encoder.{POSITIONS}", axis=1),
        "d_kv": size(64)._replace(told=_head_dim),
        "d_ff": size(2048, "encoder.block.0.layer.1.DenseReluDense.wo.weight", axis=1),
        "num_layers": depth(6, "encoder.block."),
        "num_decoder_layers": depth(lambda config: config["num_layers"], "decoder.block."),
        "relative_attention_num_buckets": size(32, f"encoder.{POSITIONS}"),
        "relative_attention_max_distance": Field(
            128, "an integer above half of relative_attention_num_buckets, of 4 or more", _distance
        ),
        "layer_norm_epsilon": number(1e-6),
        "feed_forward_proj": one_of("gated-gelu")._replace(default="relu"),
        "tie_word_embeddings": one_of(True, False),
        "scale_decoder_outputs": one_of(None, True, False),
        "pad_token_id": one_of(0),
        "eos_token_id": one_of(1),
        "decoder_start_token_id": one_of(0),
        **dict.fromkeys(("dropout_rate", "classifier_dropout"), number(0.1)),
    },
    network=network,
    rules=rules,
    infer=infer,
    buffers=(UNUSED,),
)
