"""transformers' `GPT2ForSequenceClassification`."""

from autofusion_jax.checkpoints.convert.format import (
    Config,
    Format,
    Network,
    activation,
    num_labels,
    sizes,
)
from autofusion_jax.checkpoints.convert.rules import Rule, expand, norm
from autofusion_jax.validation import require


def conv1d(ours: str, theirs: str) -> list[Rule]:
    """GPT-2's Conv1D, a Linear whose weight is stored inputs first."""
    return expand([("i o -> i o", "/kernel", ".weight"), ("o -> o", "/bias", ".bias")], ours, theirs)


def heads_out(ours: str, theirs: str) -> list[Rule]:
    """A Conv1D whose inputs are the units of heads."""
    return expand([("h d o -> (h d) o", "/kernel", ".weight"), ("o -> o", "/bias", ".bias")], ours, theirs)


def fused(ours: str, theirs: str) -> list[Rule]:
    """A Conv1D whose outputs are the units of all queries, then of all keys, then of all values."""
    kernels, biases = (
        tuple(f"{ours}/{part}/{leaf}" for part in ("query", "key", "value")) for leaf in ("kernel", "bias")
    )
    return [
        Rule(kernels, theirs + ".weight", "i h d -> i (h d)", axis=1),
        Rule(biases, theirs + ".bias", "h d -> (h d)"),
    ]


BLOCK = (
    (norm, "norm_0", "ln_1"),
    (fused, "attention", "attn.c_attn"),
    (heads_out, "attention/out", "attn.c_proj"),
    (norm, "norm_1", "ln_2"),
    (conv1d, "mlp_0", "mlp.c_fc"),
    (conv1d, "mlp_1", "mlp.c_proj"),
)
REST = (
    ("v d -> v d", "embed/embedding", "transformer.wte.weight"),
    ("t d -> t d", "positions", "transformer.wpe.weight"),
    (norm, "norm", "transformer.ln_f"),
    ("i o -> o i", "head/kernel", "score.weight"),
)


def network(config: Config) -> Network:
    """The network that a config describes."""
    vocab, length, dim, depth, num_heads = sizes(
        config, "vocab_size", "n_positions", "n_embd", "n_layer", "n_head"
    )
    pad = config["pad_token_id"]
    must_be = "the id of the token that fills the end of an input"
    advice = "Write the one it was trained with there, often that of eos_token_id."
    require(isinstance(pad, int), "load_pretrained", "pad_token_id of config.json", must_be, pad, advice)
    options = {
        "num_classes": num_labels(config),
        "pad": pad,
        "vocab": vocab,
        "length": length,
        "dim": dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_dim": config["n_inner"] or 4 * dim,
        "activation": activation(config, "activation_function"),
        "epsilon": config["layer_norm_epsilon"],
    }
    return Network("gpt2", (length,), options)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    found = expand(REST, "params/", "")
    for i in range(config["n_layer"]):
        found += expand(BLOCK, f"params/block_{i}/", f"transformer.h.{i}.")
    return found


FORMAT = Format(
    architecture="GPT2ForSequenceClassification",
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "pad_token_id": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    network=network,
    rules=rules,
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    buffers=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
)
