"""Low-rank adapters of peft, added to the tensors of their base."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autofusion_jax.checkpoints.convert.files import open_weights
from autofusion_jax.checkpoints.convert.rules import Stored
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.json_reader import Json, read_json
from autofusion_jax.validation import require

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(("use_dora", "lora_bias", "use_qalora", "use_bdlora"), (None, False)),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "layer_replication"), (None,)),
    **dict.fromkeys(("target_parameters", "trainable_token_indices"), (None,)),
}
"""Values of fields with which an adapter is a product of two matrices added to its base as it is."""


ALPHA = 8
"""peft's own, where `lora_alpha` is left out."""
PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.){1,1000}\$?")
"""Keys of `alpha_pattern` that are run: names, whose cost is bounded. peft runs any regular expression."""
MOST_PATTERNS, LONGEST_MODULE = 10_000, 1000


class Config(NamedTuple):
    """What adapter_config.json says of the factor of B A.

    Attributes:
        alpha: of modules that no pattern matches.
        patterns: expressions of modules, and their alpha; the first that matches counts.
        by_root: divide by the root of the rank.
        transposed: weights of the base may be stored inputs first.
    """

    alpha: float
    patterns: tuple[tuple[re.Pattern[str], float], ...]
    by_root: bool
    transposed: bool


class MergedTensor(NamedTuple):
    """A weight of the base with its adapter, both of which are read when they are needed.

    Attributes:
        base: the weight, `[out, in]`; `[in, out]` if `transposed`.
        down: A, `[rank, in]`.
        up: B, `[out, rank]`.
        scale: factor of B A.
        transposed: whether the weight is stored inputs first.
    """

    base: Stored
    down: Stored
    up: Stored
    scale: float
    transposed: bool

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the base."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the base."""
        return self.base.shape

    def read(self) -> np.ndarray:
        """The weight with scale B A, summed in float32."""
        base, down, up = (tensor.read().astype(np.float32) for tensor in self[:3])
        delta = self.scale * (up @ down)
        return (base + (delta.T if self.transposed else delta)).astype(self.dtype)


def merge_lora(
    state: Mapping[str, Stored], adapter: str | os.PathLike[str], *, modules: Mapping[str, str] | None = None
) -> dict[str, Stored]:
    """Add an adapter to a state dict: W + s B A, with s = alpha / rank, or alpha / sqrt(rank) for rsLoRA.

    Tensors that the adapter holds as a whole (`modules_to_save`, a new head) replace those of the base.

    Args:
        state: the base's tensors by name.
        adapter: a folder with `adapter_config.json` and `adapter_model.safetensors`.
        modules: names of modules that have another name in the state dict: regular expressions of
            the adapter's names, and what to put for them.

    Returns:
        The tensors by name; their numbers are read when they are needed.

    Raises:
        FileNotFoundError: there is no such file; names it.
        ValueError: the adapter is of another kind, or does not fit the base; names the first tensor.

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, section 4.1;
        Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023.
    """
    config = _read_config(Path(adapter) / CONFIG)
    tensors = open_weights(adapter, WEIGHTS).verify().leaves
    merged = dict(state)
    for name, tensor in tensors.items():
        target = name.removeprefix(PREFIX)
        for pattern, replacement in (modules or {}).items():
            target = re.sub(pattern, replacement, target)
        if name.endswith(DOWN):
            weight = target.removesuffix(DOWN) + ".weight"
            merged[weight] = _add(state, weight, tensors, name, config)
        elif name.endswith(UP):
            _require(name.removesuffix(UP) + DOWN in tensors, name, "beside its lora_A", "none")
        else:
            shape = state[target].shape if target in state else None
            must_be = f"in the place of {target!r} of the base, {list(shape or ())}"
            _require(
                tensor.shape == shape, name, must_be, list(tensor.shape) if shape else "no such tensor there"
            )
            merged[target] = tensor
    return merged


def _read_config(file: Path) -> Config:
    """Read what scales the product; other fields are not used, or have a value with which they do nothing."""
    data = read_json(file, "load_pretrained", CheckpointError)
    fields = data.mapping()

    def field(name: str, default: Any) -> Json:
        found = fields.get(name)
        return (
            dataclasses.replace(data, key=name, value=default)
            if found is None or found.value is None
            else found
        )

    for name, values in SUPPORTED.items():
        field(name, values[0]).one_of(values)
    alphas = field("alpha_pattern", {})
    alphas.require(len(alphas.mapping()) <= MOST_PATTERNS, f"an object of at most {MOST_PATTERNS} names")
    for pattern in alphas.mapping():
        advice = f"{pattern[:60]!r} is another regular expression; they are not run."
        alphas.require(
            PLAIN.fullmatch(pattern) is not None, "an object of names of modules, or of their ends", advice
        )
    return Config(
        alpha=field("lora_alpha", ALPHA).number(),
        patterns=tuple(
            (re.compile(rf"(.*\.)?({pattern})$"), alpha.number())
            for pattern, alpha in alphas.mapping().items()
        ),
        by_root=field("use_rslora", False).one_of((True, False)),
        transposed=field("fan_in_fan_out", False).one_of((True, False)),
    )


def _add(
    state: Mapping[str, Stored],
    weight: str,
    tensors: Mapping[str, Stored],
    name: str,
    config: Config,
) -> MergedTensor:
    """The weight of a module with the adapter whose lora_A is called `name`."""
    _require(weight in state, name, f"for {weight!r} of the base", "no such tensor there")
    _require(name.removesuffix(DOWN) + UP in tensors, name, "beside its lora_B", "none")
    base, down, up = state[weight], tensors[name], tensors[name.removesuffix(DOWN) + UP]
    got = f"{list(down.shape)} and lora_B {list(up.shape)} for {weight!r} {list(base.shape)}"
    matrices = len(down.shape) == len(up.shape) == 2 and down.shape[0] == up.shape[1] > 0
    _require(matrices, name, "[rank, in], beside lora_B [out, rank]", got)
    whole = (up.shape[0], down.shape[1])
    transposed = config.transposed and base.shape == whole[::-1]
    _require(
        transposed or base.shape == whole, name, "[rank, in], beside lora_B [out, rank], of its base", got
    )
    rank, module = down.shape[0], name.removeprefix(PREFIX).removesuffix(DOWN)
    _require(len(module) <= LONGEST_MODULE, name[:60], f"of at most {LONGEST_MODULE} letters", len(module))
    alpha = next((alpha for pattern, alpha in config.patterns if pattern.match(module)), config.alpha)
    scale = alpha / (math.sqrt(rank) if config.by_root else rank)
    return MergedTensor(base, down, up, scale, transposed)


def _require(condition: bool, name: str, must_be: str, got: Any) -> None:
    advice = "Is the adapter of another network?"
    require(condition, "load_pretrained", f"{name!r} of the adapter", must_be, got, advice)
