"""A foreign format: the fields of its config.json, its table of rules, and its network."""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from autofusion_jax.checkpoints.convert.rules import Rule, Stored
from autofusion_jax.json_reader import shown
from autofusion_jax.types import InputShape
from autofusion_jax.validation import require

Config: TypeAlias = Mapping[str, Any]
"""What config.json holds."""
Tensors: TypeAlias = Mapping[str, Stored]
Place: TypeAlias = Callable[[str], str]
"""What messages call a field: file and name."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""Our names of activations by theirs."""
LARGEST = 2**31 - 1
"""The largest size of an axis in config.json."""


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


def no_size(tensors: Tensors, config: Config) -> None:
    """The tensors do not tell a field."""


Told: TypeAlias = tuple[int | None, str]
"""A size that tensors tell, None if they are not there, and what tells it."""


class Field(NamedTuple):
    """A field of config.json.

    Attributes:
        default: its value where it is left out or null; or a function of the fields before it.
        must_be: what it must be, in words.
        fits: whether a value is that, given the fields before it.
        told: the size that the tensors tell, and by what; None if they do not.
        inner: fields, if it is an object of its own.
    """

    default: Any
    must_be: str = ""
    fits: Callable[[Any, Config], bool] = lambda value, config: True
    told: Callable[[Tensors, Config], Told | None] = no_size
    inner: "Mapping[str, Field] | None" = None


Fields: TypeAlias = Mapping[str, Field]


def nothing(source: Path, tensors: Tensors, config: Config) -> Config:
    """No fields: config.json tells all."""
    return {}


class Format(NamedTuple):
    """Checkpoints of one architecture.

    Attributes:
        architecture: their name of it.
        fields: those that matter, in the order in which they are read.
        network: the network that a config describes.
        rules: the table between its leaves and their tensors.
        buffers: regular expressions of tensors that are no parameters: they are kept as they are and
            written back.
        modules: names of modules that are not those in its files, as adapters have them: regular
            expressions, and what to put for them.
        infer: fields that the tensors tell, and config.json does not.
    """

    architecture: str
    fields: Fields
    network: Callable[[Config], Network]
    rules: Callable[[Config], list[Rule]]
    buffers: tuple[str, ...] = ()
    modules: Mapping[str, str] = types.MappingProxyType({})
    infer: Callable[[Path, Tensors, Config], Config] = nothing


def check_config(place: Place, format: Format, config: Config, tensors: Tensors | None) -> dict[str, Any]:
    """A config with its defaults, of which every size is that of the tensors; nothing is built for it.

    Args:
        place: what messages call a field.
        format: whose fields are read.
        config: what config.json holds.
        tensors: those of its file; None to hold no size against them.

    Raises:
        ValueError: it is of another architecture, has a value that is not supported, or is not of these
            tensors; names the first field.
    """
    names = config.get("architectures")
    known = not names or (isinstance(names, list) and format.architecture in names)
    _require(known, place("architectures"), f"a list with {format.architecture!r}", names)
    return _fill(place, format.fields, config, tensors, "")


def _fill(
    place: Place, fields: Fields, config: Config, tensors: Tensors | None, prefix: str
) -> dict[str, Any]:
    full = {name: value for name, value in config.items() if value is not None}
    for name, field in fields.items():
        value = full.setdefault(name, field.default(full) if callable(field.default) else field.default)
        _require(field.fits(value, full), place(prefix + name), field.must_be, value)
        if field.inner is not None:
            full[name] = _fill(place, field.inner, value, tensors, f"{prefix}{name}.")
        elif tensors is not None:
            found, by = field.told(tensors, full) or (value, "")
            must_be = f"{found}, as {by} says" if found is not None else f"that of {by}, which is not there"
            _require(value == found, place(prefix + name), must_be, value)
    return full


def section(inner: Fields) -> Field:
    """Fields of an object of its own."""
    return Field({}, "an object", lambda value, config: isinstance(value, dict), inner=inner)


def size(default: Any, *names: str, axis: int = 0, divides: str = "") -> Field:
    """A positive integer: an axis of the first tensor of these names that is there, or divides a field."""

    def fits(value: Any, config: Config) -> bool:
        return is_size(value) and (not divides or config[divides] % value == 0)

    def told(tensors: Tensors, config: Config) -> Told | None:
        return (axis_of(tensors, names, axis), repr(names[0])) if names else None

    return Field(default, f"a positive integer{f' that divides {divides}' * bool(divides)}", fits, told)


def depth(default: Any, *prefixes: str) -> Field:
    """The number of blocks: of the different numbers after the first prefix that is there."""

    def told(tensors: Tensors, config: Config) -> Told | None:
        for prefix in prefixes:
            rest = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
            if rest:
                return len({name.partition(".")[0] for name in rest}), f"{prefix + '*'!r}"
        return 0, f"the lack of {prefixes[0] + '*'!r}"

    return Field(default, "a positive integer", lambda value, config: is_size(value), told)


def image_size(default: int, *names: str) -> Field:
    """Height and width of images, whose patches have a position each, and one token more."""

    def told(tensors: Tensors, config: Config) -> Told:
        positions = axis_of(tensors, names, -2)
        patches = None if positions is None else max(positions - 1, 0)
        return None if patches is None else config["patch_size"] * math.isqrt(patches), repr(names[0])

    return Field(default, "a positive integer", lambda value, config: is_size(value), told)


def number(default: float) -> Field:
    """The constant of a norm, or a rate of dropout."""

    def fits(value: Any, config: Config) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

    return Field(default, "a number from 0 to 1", fits)


def token(default: int | None) -> Field:
    """A token of the vocabulary."""

    def fits(value: Any, config: Config) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < config["vocab_size"]

    return Field(default, "a token, from 0 to below vocab_size", fits)


def one_of(default: Any, *others: Any) -> Field:
    """One of some values."""
    known = (default, *others)

    def fits(value: Any, config: Config) -> bool:
        return any(type(value) is type(other) and value == other for other in known)

    return Field(default, " or ".join(map(repr, known)), fits)


def activation(default: str) -> Field:
    """The name of an activation that we have."""
    return one_of(default, *(name for name in ACTIVATIONS if name != default))


def labels(name: str) -> dict[str, Field]:
    """Names of the classes, or their number alone; the tensor of this name has a row for each."""
    named = Field(
        None,
        "an object with a name for every class",
        lambda value, config: value is None or (isinstance(value, dict) and bool(value)),
    )
    return {"id2label": named, "num_labels": size(lambda config: len(config["id2label"] or (0, 1)), name)}


def tower(config: Config) -> dict[str, Any]:
    """Attributes of a `models.transformer.Tower` by the usual fields."""
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    options = {ours: config[name] for ours, name in zip(("dim", "depth", "num_heads", "mlp_dim"), fields)}
    return options | {
        "activation": ACTIVATIONS[config["hidden_act"]],
        "epsilon": float(config["layer_norm_eps"]),
    }


def is_size(value: Any) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def axis_of(tensors: Tensors, names: Sequence[str], axis: int) -> int | None:
    """The size of an axis of the first tensor of these names that is there; None if there is no such axis."""
    shape = next((tensors[name].shape for name in names if name in tensors), ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _require(condition: bool, place: str, must_be: str, got: Any) -> None:
    require(condition, "load_pretrained", place, must_be, shown(got))
