"""Records tiny random networks of transformers, and ResNets, with their outputs, for tests without torch.

    python -m tests.checkpoints.convert.record tests/oracles/interop

Needs the `interop` extra, and not jax. A network is one function in `NETWORKS` that returns it and its
inputs; the folder `<out>/<name>` gets what its `save_pretrained` writes, and `io.npz` with the inputs
and the output `y`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.checkpoints.convert.torch_resnet import Basic, Bottleneck, ResNet

PAD, END, VOCAB = 0, 49, 50
MAX_LEN = 12


def randomise(network, seed=0):
    """Parameters large enough to matter, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.1 * noise if value.ndim == 1 and "norm" in name else 0.3 * noise)
    return network.eval()


def tokens(num, length, end=None):
    """Random tokens, the ends of all but the first of random lengths filled."""
    rng = np.random.default_rng(0)
    found = rng.integers(1, END, (num, length))
    for row, size in zip(found, [length, *rng.integers(2, length, num - 1)]):
        row[size:] = PAD if end is None else end
        row[size - 1] = row[size - 1] if end is None else end
    return found


def images(num, size, seed=1):
    return np.random.default_rng(seed).normal(size=(num, 3, size, size)).astype(np.float32)


def vit():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    return randomise(transformers.ViTForImageClassification(config)), {"pixel_values": images(4, 8)}


def gpt2():
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=VOCAB, num_labels=3,
        pad_token_id=PAD, bos_token_id=END, eos_token_id=END,
    )  # fmt: skip
    return randomise(transformers.GPT2ForSequenceClassification(config)), {"input_ids": tokens(4, 8)}


def clip():
    text = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    text |= {"vocab_size": VOCAB, "max_position_embeddings": 8, "pad_token_id": PAD}
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    vision |= {"image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config=text | {"bos_token_id": 1, "eos_token_id": END}, vision_config=vision, projection_dim=12
    )
    inputs = {"pixel_values": images(4, 8), "input_ids": tokens(3, 8, END)}
    return randomise(transformers.CLIPModel(config)), inputs


def t5():
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=2, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=12,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=PAD, n_positions=9,
    )  # fmt: skip
    network = transformers.T5ForConditionalGeneration(config)
    network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.clone())
    network.config.tie_word_embeddings = False
    return randomise(network), t5_inputs()


def t5_tied():
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", decoder_start_token_id=PAD, n_positions=9,
    )  # fmt: skip
    return randomise(transformers.T5ForConditionalGeneration(config)), t5_inputs()


def t5_inputs():
    source, target = tokens(6, 9), np.random.default_rng(2).integers(1, END, (6, 5))
    target[:, 0] = PAD
    return {"input_ids": source, "attention_mask": source != PAD, "decoder_input_ids": target}


def resnet(architecture="resnet50", kind=Bottleneck):
    torch.manual_seed(0)
    network = ResNet(architecture, kind, widths=(2, 3, 2, 3), depths=(1, 2, 1, 1), num_classes=3)
    for value in network.parameters():
        if value.ndim == 1:
            torch.nn.init.uniform_(value, -0.3, 1.0)
    for number in range(3):  # statistics of their own
        network(1 + 2 * torch.as_tensor(images(8, 21, number)))
    return network.eval(), {"pixel_values": images(4, 21, 3)}


NETWORKS = {
    "clip": clip,
    "gpt2": gpt2,
    "resnet": resnet,
    "resnet_basic": lambda: resnet("resnet18", Basic),
    "t5": t5,
    "t5_tied": t5_tied,
    "vit": vit,
}


def output(network, inputs):
    """The logits."""
    with torch.no_grad():
        found = network(**{name: torch.as_tensor(value) for name, value in inputs.items()})
    return (found.logits_per_image if hasattr(found, "logits_per_image") else found.logits).numpy()


def record(folder, network, inputs):
    """Write a network, inputs and output."""
    network.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez(folder / "io.npz", y=output(network, inputs), **more_outputs(network, inputs), **inputs)


def more_outputs(network, inputs):
    """What an encoder-decoder writes by itself, and its buckets of positions."""
    if "decoder_input_ids" not in inputs:
        return {}
    source, mask = (torch.as_tensor(inputs[name]) for name in ("input_ids", "attention_mask"))
    # transformers 5.24 makes a cache for as many blocks as the encoder has, not the decoder
    written = network.generate(
        source, attention_mask=mask, do_sample=False, max_new_tokens=MAX_LEN, use_cache=False
    )
    buckets = network.encoder.block[0].layer[0].SelfAttention._relative_position_bucket
    apart = torch.arange(-300, 301)
    return {
        "written": written[:, 1:].numpy(),
        "buckets": buckets(apart, bidirectional=True).numpy(),
        "causal_buckets": buckets(apart, bidirectional=False).numpy(),
    }


if __name__ == "__main__":
    for name, make in NETWORKS.items():
        record(Path(sys.argv[1]) / name, *make())
