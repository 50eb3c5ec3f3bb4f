"""The one table of named configs, and how `--config=NAME` finds them."""

import dataclasses
import re
from collections.abc import Sequence

from autofusion_jax.validation import unknown_name
from configs import (
    cifar10_mlp,
    cifar10_resnet20,
    cifar10_vgg,
    cifar10_vgg_paper,
    digits_mlp,
    fashion_mlp,
    fashion_mlp_paper,
    fashion_vgg,
    fashion_vgg_paper,
    kmnist_mlp,
    kmnist_mlp_paper,
    kmnist_vgg,
    kmnist_vgg_paper,
    mnist_mlp,
    mnist_mlp_paper,
    mnist_vgg,
    mnist_vgg_paper,
    tiny_vit_4tasks,
)
from configs.schema import Config

CONFIGS = {
    "cifar10_mlp": cifar10_mlp.get_config,
    "cifar10_resnet20": cifar10_resnet20.get_config,
    "cifar10_vgg": cifar10_vgg.get_config,
    "cifar10_vgg_paper": cifar10_vgg_paper.get_config,
    "digits_mlp": digits_mlp.get_config,
    "fashion_mlp": fashion_mlp.get_config,
    "fashion_mlp_paper": fashion_mlp_paper.get_config,
    "fashion_vgg": fashion_vgg.get_config,
    "fashion_vgg_paper": fashion_vgg_paper.get_config,
    "kmnist_mlp": kmnist_mlp.get_config,
    "kmnist_mlp_paper": kmnist_mlp_paper.get_config,
    "kmnist_vgg": kmnist_vgg.get_config,
    "kmnist_vgg_paper": kmnist_vgg_paper.get_config,
    "mnist_mlp": mnist_mlp.get_config,
    "mnist_mlp_paper": mnist_mlp_paper.get_config,
    "mnist_vgg": mnist_vgg.get_config,
    "mnist_vgg_paper": mnist_vgg_paper.get_config,
    "tiny_vit_4tasks": tiny_vit_4tasks.get_config,
}


def get_config(name: str) -> Config:
    """Build a config by name.

    Raises:
        ValueError: unknown name; the nearest match first, then all.
    """
    if name not in CONFIGS:
        raise unknown_name("--config", "name", name, CONFIGS)
    return CONFIGS[name]()


def check_overrides(argv: Sequence[str]) -> None:
    """Refuse a command line without `--config=NAME` before its overrides, or with a misspelt one.

    Raises:
        ValueError: says what is wrong and lists what there is.
    """
    flags = [re.match(r"--?config((?:\.\w+)*)(?:=(.*))?$", argument) for argument in argv]
    found = [match for match in flags if match]
    if not found or found[0].group(1):
        raise ValueError(
            f"--config=NAME must come first; got {' '.join(argv) or 'nothing'}. Known: {', '.join(CONFIGS)}."
        )
    position = argv.index(found[0].group(0))
    following = argv[position + 1] if position + 1 < len(argv) else ""
    config = get_config(found[0].group(2) if found[0].group(2) is not None else following)
    for match in found[1:]:
        node = config
        for field in match.group(1).strip(".").split("."):
            known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
            if field not in known:
                raise unknown_name("--config", "field", field, known)
            node = getattr(node, field)
