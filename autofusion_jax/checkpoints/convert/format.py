"""A foreign format: its table of rules, its network, and the reading of its config.json."""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from autofusion_jax.checkpoints.convert.rules import Rule, Stored
from autofusion_jax.types import InputShape
from autofusion_jax.validation import require, unknown_name

Config: TypeAlias = Mapping[str, Any]
"""What config.json holds."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Our names of activations by theirs."""


class Network(NamedTuple):
    """Arguments of `models.registry.build_model`.

    Attributes:
        name: of the model.
        input_shape: shape of one input.
        options: attributes of the module.
    """

    name: str
    input_shape: InputShape
    options: dict[str, Any]


def nothing(tensors: Mapping[str, Stored]) -> Config:
    """No fields: config.json tells all."""
    return {}


class Format(NamedTuple):
    """Checkpoints of one architecture.

    Attributes:
        architecture: their name of it.
        defaults: values of fields that config.json may leave out.
        network: the network that a config describes.
        rules: the table between its leaves and their tensors.
        fixed: fields that must have one value, as the network knows no other.
        buffers: regular expressions of tensors that are no parameters: they are kept as they are and
            written back.
        modules: names of modules that are not those in its files, as adapters have them: regular
            expressions, and what to put for them.
        infer: fields that the tensors tell, and config.json does not.
    """

    architecture: str
    defaults: Config
    network: Callable[[Config], Network]
    rules: Callable[[Config], list[Rule]]
    fixed: Config = types.MappingProxyType({})
    buffers: tuple[str, ...] = ()
    modules: Mapping[str, str] = types.MappingProxyType({})
    infer: Callable[[Mapping[str, Stored]], Config] = nothing


def check_config(caller: str, format: Format, config: Config) -> Config:
    """A config with its defaults.

    Raises:
        ValueError: it is of another architecture, or has a value that is not supported.
    """
    names = config.get("architectures") or [format.architecture]
    require(format.architecture in names, caller, "architectures", format.architecture, names)
    full = fill(config, format.defaults)
    for name, value in format.fixed.items():
        require(full[name] == value, caller, name, repr(value), repr(full[name]))
    return full


def fill(config: Config, defaults: Config) -> dict[str, Any]:
    """A config in which what it leaves out, or has as null, is the default."""
    return {**defaults, **{name: value for name, value in config.items() if value is not None}}


def sizes(config: Config, *names: str) -> list[int]:
    """Fields of a config that are sizes.

    Raises:
        ValueError: one is no positive integer.
    """
    for name in names:
        value = config[name]
        ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
        require(ok, "load_pretrained", f"{name} of config.json", "a positive integer", repr(value))
    return [config[name] for name in names]


def tower(config: Config) -> dict[str, Any]:
    """Attributes of a `models.transformer.Tower` by the usual fields."""
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    options = dict(zip(("dim", "depth", "num_heads", "mlp_dim"), sizes(config, *fields)))
    return options | {"activation": activation(config, "hidden_act"), "epsilon": config["layer_norm_eps"]}


def activation(config: Config, name: str) -> str:
    """Our name of the activation that a field of a config names.

    Raises:
        ValueError: there is none; lists the known ones.
    """
    if config[name] not in ACTIVATIONS:
        raise unknown_name("load_pretrained", name, str(config[name]), ACTIVATIONS)
    return ACTIVATIONS[config[name]]


def num_labels(config: Config) -> int:
    """Classes of a config."""
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
