"""Networks of transformers, timm and torchvision from their folders, and back into the same form."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.arguments import AnyPath, checked
from autofusion_jax.atomic import locked, new_folder
from autofusion_jax.checkpoints.convert.files import open_weights
from autofusion_jax.checkpoints.convert.format import Config, Format, Place, check_config
from autofusion_jax.checkpoints.convert.formats import FORMATS
from autofusion_jax.checkpoints.convert.lora import merge_lora
from autofusion_jax.checkpoints.convert.rules import Rule, Shapes, Stored, is_float, to_leaves
from autofusion_jax.checkpoints.orbax_io import CheckpointError, sha256
from autofusion_jax.checkpoints.safetensors_io import SINGLE, StoredLeaf, stored_order, write_safetensors
from autofusion_jax.extras import need
from autofusion_jax.json_reader import read_json
from autofusion_jax.trees import check_finite, flatten_by_path, unflatten_like
from autofusion_jax.types import InputShape, Params
from autofusion_jax.validation import require, unknown_name

if TYPE_CHECKING:
    from autofusion_jax.models.registry import Model

CONFIG, DIGEST = "config.json", "config.json.sha256"
DTYPE_FIELDS = ("dtype", "torch_dtype")
"""Of config.json, in new and old versions of transformers."""
LONGEST_TYPE = 60
"""Letters of a model's type: enough for messages."""


class Pretrained(NamedTuple):
    """A network with its parameters, from `load_pretrained` or for `save_pretrained`.

    Attributes:
        model: the network; `model.apply` and `model.perm_spec` are what merging needs.
        params: its parameters, numpy arrays of the dtypes in the file.
        config: what config.json holds.
        buffers: tensors of the file that are no parameters (masks and positions in files of old
            versions), by their names there; they are written back as they are.
        rules: the table between its leaves and the tensors.
    """

    model: "Model"
    params: Params
    config: Config
    buffers: dict[str, np.ndarray]
    rules: tuple[Rule, ...]


@checked
def load_pretrained(
    path: AnyPath,
    *,
    adapter: AnyPath | None = None,
    input_shape: InputShape | None = None,
    config: Config | None = None,
) -> Pretrained:
    """Load a network that transformers, timm or torchvision has saved.

    Known are the values of `model_type` (timm: `architecture`, without its depth) in
    `checkpoints.convert.formats.FORMATS`. Every tensor of the file must have its place in the network,
    and every leaf is filled. Nothing is unpickled; tensors are read one after the other.

    Args:
        path: a folder with `config.json`, and `model.safetensors` or `model.safetensors.index.json`
            and the shards that it names.
        adapter: a folder with peft's `adapter_config.json` and `adapter_model.safetensors`, a LoRA that
            is added to the network.
        input_shape: shape of one input; that of config.json by default, which for tokens is the
            largest length. `model.perm_spec` is inferred from inputs of this shape, and methods that
            look into the network take only such: `(64,)` for a batch `[N, 64]` of tokens.
        config: fields in place of those of config.json, or all of them where there is none:
            `{"architecture": "resnet50"}` for tensors of torchvision, `{"n_positions": 64}` for a T5
            that reads 64 tokens.

    Raises:
        MissingExtra: flax is not installed.
        FileNotFoundError: there is no such file; names it.
        CheckpointError: a file is truncated or is not what it should be; names it.
        ValueError: the config is of another architecture or unsupported, or a tensor is missing, has
            another shape or has no place, or the adapter does not fit; names the first one.

    Example:
        >>> loaded = load_pretrained("vit-flowers")  # doctest: +SKIP
        >>> logits = loaded.model.apply(loaded.params, images)  # doctest: +SKIP
    """
    need("flax", what="af.load_pretrained")
    path, given = Path(path), config or {}
    known = _read_config(path, given)

    def place(field: str) -> str:
        return f"config[{field!r}]" if field.partition(".")[0] in given else f"{field} of {path / CONFIG}"

    format = _format(place, known)
    state: Mapping[str, Stored] = open_weights(path, SINGLE).verify().leaves
    if adapter is not None:
        state = merge_lora(state, adapter, modules=format.modules)
    kept = [name for name in state if any(re.fullmatch(pattern, name) for pattern in format.buffers)]
    tensors = {name: tensor for name, tensor in state.items() if name not in kept}
    full = check_config(place, format, known, tensors)
    full |= format.infer(path, tensors, full)
    model, rules = _build(format, full, input_shape), tuple(format.rules(full))
    tree = jax.eval_shape(model.init, jax.random.key(0))
    leaves = to_leaves(path, rules, _shapes(tree), tensors)
    buffers = {name: state[name].read() for name in kept}
    return Pretrained(model, unflatten_like(tree, leaves), known, buffers, rules)


@checked
def save_pretrained(path: AnyPath, pretrained: Pretrained) -> Path:
    """Write a network as transformers does: `config.json` and `model.safetensors`, whole or not at all.

    Both have a checksum, that of `config.json` in a file beside it, which `load_pretrained` verifies. Where
    `config.json` names a dtype, it is that of the tensors written: the widest, if they differ.

    Args:
        path: a folder that does not exist; its parents are made.
        pretrained: of `load_pretrained`; `pretrained._replace(params=...)` for others of its form.

    Returns:
        The path.

    Raises:
        ValueError: the folder exists, or `params` are not of the form of the model or not finite floats;
            names the first leaf.
        OSError: the folder cannot be written, or the disk is full.

    Example:
        >>> save_pretrained("merged", loaded._replace(params=result.params))  # doctest: +SKIP
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        require(not target.exists(), "save_pretrained", "path", "a folder that does not exist", target)
        _write(target, pretrained)
    return target


def _write(target: Path, pretrained: Pretrained) -> None:
    leaves = {name: np.asarray(leaf) for name, leaf in flatten_by_path(pretrained.params).items()}
    shapes = _shapes(jax.eval_shape(pretrained.model.init, jax.random.key(0)))
    _check_leaves(shapes, leaves)
    config = _with_dtype(
        pretrained.config, functools.reduce(jnp.promote_types, (v.dtype for v in leaves.values()))
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    with new_folder(target) as work:
        (work / CONFIG).write_text(text, encoding="utf-8")
        (work / DIGEST).write_bytes(_digest_line(work / CONFIG))
        _write_tensors(
            work / SINGLE, {rule.name: rule for rule in pretrained.rules}, shapes, leaves, pretrained.buffers
        )


def _with_dtype(config: Config, dtype: np.dtype) -> dict[str, Any]:
    """The config in which fields that name a dtype, also of its parts, name this one."""
    known = {name: str(dtype) for name in DTYPE_FIELDS if config.get(name) is not None}
    parts = {name: _with_dtype(value, dtype) for name, value in config.items() if isinstance(value, dict)}
    return {**config, **parts, **known}


def _digest_line(file: Path) -> bytes:
    """What `sha256sum` says of a file."""
    return f"{sha256(file)}  {file.name}\n".encode()


def _read_config(path: Path, given: Config) -> dict[str, Any]:
    if given and not (path / CONFIG).is_file():
        return dict(given)
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"load_pretrained: {path} must be a folder with {CONFIG}; it has none.")
    found = read_json(path / CONFIG, "load_pretrained", CheckpointError)
    found.mapping()
    digest = path / DIGEST
    if digest.is_file() and digest.read_bytes() != _digest_line(path / CONFIG):
        raise CheckpointError(
            f"load_pretrained: {path / CONFIG} was changed since it was written (its SHA-256 is not that in "
            f"{DIGEST}). If the change was meant, remove {DIGEST}."
        )
    return {**found.value, **given}


def _write_tensors(
    file: Path,
    rules: Mapping[str, Rule],
    shapes: Shapes,
    leaves: Mapping[str, Any],
    buffers: Mapping[str, Any],
) -> None:
    stored = {
        name: StoredLeaf(file, 0, np.dtype(leaves[rule.leaves[0]].dtype), rule.shape(shapes))
        for name, rule in rules.items()
    }
    stored |= {name: StoredLeaf(file, 0, value.dtype, value.shape) for name, value in buffers.items()}
    with write_safetensors(file, stored, {"format": "pt"}) as append:
        for name in stored_order(stored):
            append(rules[name].to_theirs(leaves) if name in rules else buffers[name])


def _format(place: Place, config: Config) -> Format:
    name = str(config.get("model_type") or str(config.get("architecture")).rstrip("0123456789"))[
        :LONGEST_TYPE
    ]
    if name not in FORMATS:
        raise unknown_name("load_pretrained", place("model_type"), name, FORMATS)
    return FORMATS[name]


def _build(format: Format, config: Config, input_shape: InputShape | None) -> "Model":
    from autofusion_jax.models.registry import build_model  # flax: only those who load pay for it

    name, shape, options = format.network(config)
    return build_model(name, input_shape or shape, **options)


def _shapes(tree: Params) -> Shapes:
    return {path: leaf.shape for path, leaf in flatten_by_path(tree).items()}


def _check_leaves(shapes: Shapes, leaves: dict[str, np.ndarray]) -> None:
    for path in [*shapes, *leaves]:
        must_be = f"of shape {list(shapes[path])}" if path in shapes else "no leaf of this architecture"
        got = np.shape(leaves[path]) if path in leaves else None
        require(
            got == shapes.get(path),
            "save_pretrained",
            f"params[{path!r}]",
            must_be,
            "nothing" if got is None else list(got),
        )
        require(
            is_float(leaves[path].dtype), "save_pretrained", f"params[{path!r}]",
            "of float32, float16 or bfloat16", leaves[path].dtype,
        )  # fmt: skip
    check_finite("save_pretrained", "params", leaves)
