"""Records tiny random networks of transformers with their outputs, for tests that run without torch.

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

PAD, END, VOCAB = 0, 49, 50


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


def images(num, size):
    return np.random.default_rng(1).normal(size=(num, 3, size, size)).astype(np.float32)


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


NETWORKS = {"clip": clip, "gpt2": gpt2, "vit": vit}


def output(network, inputs):
    """The logits."""
    with torch.no_grad():
        found = network(**{name: torch.as_tensor(value) for name, value in inputs.items()})
    return (found.logits_per_image if hasattr(found, "logits_per_image") else found.logits).numpy()


def record(folder, network, inputs):
    """Write a network, inputs and output."""
    network.save_pretrained(folder)
    np.savez(folder / "io.npz", y=output(network, inputs), **inputs)


if __name__ == "__main__":
    for name, make in NETWORKS.items():
        record(Path(sys.argv[1]) / name, *make())
