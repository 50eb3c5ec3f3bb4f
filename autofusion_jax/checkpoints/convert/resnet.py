"""torchvision's and timm's ResNets (`resnet18` to `resnet152`)."""

import re
from pathlib import Path
from typing import Any

from autofusion_jax.checkpoints.convert.format import (
    Config,
    Field,
    Format,
    Network,
    Tensors,
    is_size,
    section,
)
from autofusion_jax.checkpoints.convert.rules import Rule, expand, linear
from autofusion_jax.validation import require

STAGES = range(1, 5)
IMAGE = [3, 224, 224]
LARGEST_IMAGE = 1 << 13
"""Pixels of a side."""


def conv(ours: str, theirs: str) -> list[Rule]:
    """torch's Conv2d without a bias."""
    return expand([("h w i o -> o i h w", "/kernel", ".weight")], "params/" + ours, theirs)


def batch_norm(ours: str, theirs: str) -> list[Rule]:
    """torch's BatchNorm2d; `num_batches_tracked` is no number of the network."""
    parameters = [("d -> d", "/scale", ".weight"), ("d -> d", "/bias", ".bias")]
    statistics = [("d -> d", "/mean", ".running_mean"), ("d -> d", "/var", ".running_var")]
    return expand(parameters, "params/" + ours, theirs) + expand(statistics, "batch_stats/" + ours, theirs)


def infer(source: Path, tensors: Tensors, config: Config) -> Config:
    """Sizes by names and shapes of tensors: neither library's configs tell them.

    Raises:
        ValueError: the tensors are those of another network; names one that is missing.
    """
    first = {"conv1.weight": 4, "fc.weight": 2} | {f"layer{s}.0.conv1.weight": 4 for s in STAGES}
    for name, ndim in first.items():
        got = list(tensors[name].shape) if name in tensors else "nothing"
        fits = name in tensors and len(got) == ndim
        require(
            fits,
            "load_pretrained",
            f"{source}[{name!r}]",
            f"a tensor with {ndim} axes, as in torchvision's ResNets",
            got,
        )
    blocks = {found[0] for name in tensors if (found := re.match(r"layer(\d)\.(\d+)\.", name))}
    depths = [sum(block.startswith(f"layer{s}.") for block in blocks) for s in STAGES]
    return {
        "depths": depths,
        "widths": [tensors[f"layer{s}.0.conv1.weight"].shape[0] for s in STAGES],
        "block": "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic",
        "channels": tensors["conv1.weight"].shape[1],
        "num_classes": tensors["fc.weight"].shape[0],
    }


def network(config: Config) -> Network:
    """The network that a config describes."""
    _, height, width = config["pretrained_cfg"]["input_size"]
    options = {name: config[name] for name in ("num_classes", "widths", "depths", "block")}
    return Network("resnet", (height, width, config["channels"]), options | {"inputs": "large"})


def rules(config: Config) -> list[Rule]:
    """The table of rules."""
    bottleneck = config["block"] == "bottleneck"
    table = [(conv, "stem", "conv1"), (batch_norm, "stem_norm", "bn1"), (linear, "params/head", "fc")]
    for stage, depth in enumerate(config["depths"]):
        for block in range(depth):
            ours, theirs = f"stage{stage}_block{block}/", f"layer{stage + 1}.{block}."
            for i in range(3 if bottleneck else 2):
                table.append((conv, f"{ours}conv_{i}", f"{theirs}conv{i + 1}"))
                table.append((batch_norm, f"{ours}norm_{i}", f"{theirs}bn{i + 1}"))
            if not block and (stage or bottleneck):
                table.append((conv, ours + "shortcut", theirs + "downsample.0"))
                table.append((batch_norm, ours + "shortcut_norm", theirs + "downsample.1"))
    return expand(table, "", "")


def _is_shape(value: Any, config: Config) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(IMAGE)
        and all(is_size(length) and length <= LARGEST_IMAGE for length in value)
    )


SHAPE = Field(IMAGE, f"[channels, height, width], each from 1 to {LARGEST_IMAGE}", _is_shape)
FORMAT = Format(
    architecture="resnet",
    fields={"pretrained_cfg": section({"input_size": SHAPE})},
    network=network,
    rules=rules,
    infer=infer,
    buffers=(r".*\.num_batches_tracked",),
)
