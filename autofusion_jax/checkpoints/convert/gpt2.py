"""transformers' `GPT2ForSequenceClassification`."""

from autofusion_jax.checkpoints.convert.format import (
    ACTIVATIONS,
    Config,
    Format,
    Network,
    activation,
    depth,
    labels,
    number,
    one_of,
    size,
    token,
)
from autofusion_jax.checkpoints.convert.rules import Rule, expand, norm


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
    fields = {
        "num_classes": "num_labels",
        "pad": "pad_token_id",
        "vocab": "vocab_size",
        "length": "n_positions",
        "dim": "n_embd",
        "depth": "n_layer",
        "num_heads": "n_head",
        "mlp_dim": "n_inner",
    }
    options = {ours: config[name] for ours, name in fields.items()}
    more = {
        "activation": ACTIVATIONS[config["activation_function"]],
        "epsilon": float(config["layer_norm_epsilon"]),
    }
    return Network("gpt2", (config["n_positions"],), options | more)


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    found = expand(REST, "params/", "")
    for i in range(config["n_layer"]):
        found += expand(BLOCK, f"params/block_{i}/", f"transformer.h.{i}.")
    return found


FORMAT = Format(
    architecture="GPT2ForSequenceClassification",
    fields={
        "vocab_size": size(50257, "transformer.wte.weight"),
        "n_positions": size(1024, "transformer.wpe.weight"),
        "n_embd": size(768, "transformer.wte.weight", axis=1),
        "n_layer": depth(12, "transformer.h."),
        "n_head": size(12, divides="n_embd"),
        "n_inner": size(lambda config: 4 * config["n_embd"], "transformer.h.0.mlp.c_fc.weight", axis=1),
        "activation_function": activation("gelu_new"),
        "layer_norm_epsilon": number(1e-5),
        "pad_token_id": token(None)._replace(
            must_be="the token that fills the end of an input, often that of eos_token_id"
        ),
        "scale_attn_weights": one_of(True),
        "scale_attn_by_inverse_layer_idx": one_of(False),
        "add_cross_attention": one_of(False),
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), number(0.1)),
        **labels("score.weight"),
    },
    network=network,
    rules=rules,
    buffers=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
)
