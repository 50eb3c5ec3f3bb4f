"""The model of a config: fields made from the module that is registered, so that none is written twice."""

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax

from autofusion_jax.arguments import Rule, integer, list_of, number, rule_of
from autofusion_jax.models.registry import MODELS, Model, build_model
from autofusion_jax.types import InputShape
from autofusion_jax.validation import require, unknown_name
from data.files import memory_bytes, reason
from fields import RULE, check_fields

PLACES = ("pool_after",)
"""Options that name places, from 0; others are sizes, from 1."""
OF_FLAX = ("name", "parent")
SIMPLE = (bool, int, float, str, tuple)
"""Types of the options that a command line can set."""


@dataclasses.dataclass
class ModelConfig:
    """A registered model and its options; see `model_config`.

    name: a key of `autofusion_jax.models.registry.MODELS`.
    """

    name: str

    given: ClassVar[tuple[str, ...]] = ()
    """Options that the config says; others have the module's defaults."""

    if TYPE_CHECKING:

        def __getattr__(self, option: str) -> Any: ...


def model_config(name: str, **options: Any) -> ModelConfig:
    """The config of a model: a field for each option of its module, typed as its value is.

    Args:
        name: a key of `MODELS`.
        options: attributes of the module. Those that depend on the data, such as `num_classes`, are left out.

    Raises:
        ValueError: unknown name or option; lists the known ones.

    Example:
        >>> config = model_config("mlp", widths=(64, 64))
        >>> config.widths, config.use_bias, model_identity(config)
        ((64, 64), True, {'widths': (64, 64), 'name': 'mlp'})
    """
    if name not in MODELS:
        raise unknown_name("model_config", "model", name, MODELS)
    fields = {field.name: field for field in dataclasses.fields(MODELS[name]) if field.name not in OF_FLAX}
    for option in options:
        if option not in fields:
            raise unknown_name(f"model_config: {name}", "option", option, fields)
    values = {option: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
              for option, v in options.items()}  # fmt: skip
    defaults = {option: field.default for option, field in fields.items() if option not in values}
    values |= {option: value for option, value in defaults.items() if isinstance(value, SIMPLE)}
    types = tuple((option, _type(value)) for option, value in values.items())
    return _config_class(types, tuple(options))(name, **values)


def _type(value: Any) -> Any:
    return tuple[type(value[0]), ...] if isinstance(value, tuple) and value else type(value)


@functools.cache
def _config_class(types: tuple[tuple[str, Any], ...], given: tuple[str, ...]) -> type[ModelConfig]:
    fields = [
        (option, kind, dataclasses.field(metadata={RULE: _rule(option, kind)})) for option, kind in types
    ]
    return dataclasses.make_dataclass("ModelConfig", fields, bases=(ModelConfig,), namespace={"given": given})


def _rule(option: str, kind: Any) -> Rule:
    """What an option of a model must be: sizes from 1, places from 0, other numbers from 0."""
    least = 0 if option in PLACES else 1
    rules = {int: integer(least=least), float: number(least=0)}
    if typing.get_origin(kind) is tuple:
        (part, *_) = typing.get_args(kind)
        return list_of(rules.get(part) or rule_of(part))
    return rules.get(kind) or rule_of(kind)


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """What makes two models the same: the options that the config says, and those changed since."""
    if model.name not in MODELS:
        raise unknown_name("model", "name", model.name, MODELS)
    defaults = {field.name: field.default for field in dataclasses.fields(MODELS[model.name])}
    options = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name in model.given or getattr(model, field.name) != defaults.get(field.name)
    }
    del options["name"]
    return {**options, "name": model.name}


def build(model: ModelConfig, input_shape: InputShape, **sizes: Any) -> Model:
    """Build the model of a config.

    Args:
        model: its name and options.
        input_shape: shape of one input.
        sizes: options that the data decides, such as `num_classes`.

    Raises:
        ValueError: unknown name or option, or no network of these options takes these inputs or has room in
            memory; says which.
    """
    check_fields("model", model)
    options = {option: value for option, value in model_identity(model).items() if option != "name"}
    built = build_model(model.name, input_shape, **{**options, **sizes})
    try:
        shapes = jax.eval_shape(built.init, jax.random.key(0))
    except Exception as error:  # layers meet sizes that do not fit with errors of many kinds
        raise ValueError(
            f"model: {model.name} of {options} must take inputs {list(input_shape)}; {reason(error)}."
        ) from error
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    wanted, most = f"a network that this machine's memory holds, {memory_bytes():,} bytes", memory_bytes()
    require(size <= most, "model", f"{model.name} of {options}", wanted, f"{size:,} bytes")
    return built
