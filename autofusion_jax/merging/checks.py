"""Checks of the front door, before any method runs."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from autofusion_jax.merging.method import Method
from autofusion_jax.partition import check_has_numbers
from autofusion_jax.precision import needs_64_bits
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import check_params
from autofusion_jax.trees import (
    a_kind_of,
    check_finite,
    check_same_structure,
    flatten_by_path,
    in_containers_of,
    is_number,
)
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Batch = Any
"""Inputs `[N, ...]`, or None for methods without data."""

Labels = Any
"""Integer classes `[N]`, or None."""


def network_names(models: Sequence[Params], base: Params | None) -> dict[str, Params]:
    """The networks by what messages call them."""
    names = ["params_a", "params_b", *(f"models[{i}]" for i in range(2, len(models)))]
    return dict(zip(names, models)) | ({} if base is None else {"base": base})


def check_models(
    models: Iterable[Params],
    base: Params | None,
    spec: PermSpec | None,
    *,
    min_models: int = 2,
    promote: bool = False,
) -> tuple[list[Params], Params | None]:
    """Check that networks fit one another and the spec, and bring all into the first one's containers.

    Args:
        models: parameters of networks with the same paths.
        base: those of another one, or None.
        spec: their permutation spec, or None.
        min_models: how many there must be.
        promote: bring every leaf of floats to the widest dtype that it has in any network.

    Returns:
        The networks and the base.

    Raises:
        ValueError: networks are too few, are none, or do not fit one another or the spec.
    """
    is_spec = spec is None or isinstance(spec, PermSpec)
    advice = "Give infer_perm_spec(apply_fn, params, x), or PermSpec.from_table of a table."
    require(is_spec, "merge", "perm_spec", "a PermSpec or None", a_kind_of(spec), advice)
    models = listed_networks(models)
    must_be = "one or more networks" if min_models == 1 else "two or more networks"
    require(len(models) >= min_models, "merge", "models", must_be, len(models))
    for name, params in network_names(models, base).items():
        _check_network(name, params)
        check_has_numbers("merge", name, params)
    models = [models[0], *(in_containers_of(models[0], params) for params in models[1:])]
    base = None if base is None else in_containers_of(models[0], base)
    if promote:
        models, base = _promoted(models, base)
    if spec is not None:
        check_params(spec, models[0], caller="merge", name="params_a")
    for name, params in network_names(models, base).items():
        advice = "promote=True brings dtypes to the widest."
        check_same_structure("merge", ("params_a", name), models[0], params, advice)
    return models, base


def listed_networks(models: Iterable[Params]) -> list[Params]:
    """The networks as a list; ValueError for a single network in their place."""
    single = isinstance(models, Mapping | str | PermSpec) or hasattr(models, "_fields")
    require(
        isinstance(models, Iterable) and not single and not hasattr(models, "dtype"),
        "merge_many", "models", "a list of networks, each a pytree of arrays", a_kind_of(models),
    )  # fmt: skip
    return list(models)


def _check_network(name: str, params: Params) -> None:
    """Raise ValueError unless a network is a pytree of numbers that JAX takes as they are."""
    for path, leaf in flatten_by_path(params).items():
        place = f"{name}[{path!r}]" if path else name
        require(
            not isinstance(leaf, Tracer), "merge", place, "an array", f"a {type(leaf).__name__}",
            "A merge runs outside of jax.jit, vmap and grad; autofusion_jax.functional and fuse go inside.",
        )  # fmt: skip
        require(
            not isinstance(leaf, jax.ShapeDtypeStruct | np.ma.MaskedArray), "merge", place, "an array",
            a_kind_of(leaf), "All its numbers must be there.",
        )  # fmt: skip
        require(
            not isinstance(leaf, PermSpec), "merge", place, "an array", "a PermSpec",
            "The order is merge(params_a, params_b, perm_spec, batch); of a checkpoint give its params.",
        )  # fmt: skip
        require(
            not needs_64_bits([leaf]), "merge", place, "float32 or narrower, or complex64",
            getattr(leaf, "dtype", None),
            'Methods that run the networks follow jax_enable_x64: call jax.config.update("jax_enable_x64", '
            "True), or cast it.",
        )  # fmt: skip


def check_values(models: Sequence[Params], base: Params | None) -> None:
    """Raise ValueError naming the first network and leaf that hold a NaN or an infinity."""
    for name, params in network_names(models, base).items():
        check_finite("merge", name, params)


def _promoted(models: list[Params], base: Params | None) -> tuple[list[Params], Params | None]:
    """Bring leaves of floats to the widest dtype that they have in any network, others to the first one's."""
    together = [*models, *([] if base is None else [base])]
    if len({jax.tree.structure(params) for params in together}) > 1:
        return models, base  # and `check_same_structure` says where they differ

    def widest(*leaves: Any) -> list[Any]:
        if not all(map(is_number, leaves)):
            return list(leaves)
        dtype = jnp.result_type(*leaves)
        if jnp.issubdtype(dtype, jnp.inexact):
            return [jnp.asarray(leaf, dtype) for leaf in leaves]
        # of integers and booleans the first network's come back: they stay what they are
        return [leaves[0], *(np.asarray(leaf).astype(np.asarray(leaves[0]).dtype) for leaf in leaves[1:])]

    cast = [list(column) for column in zip(*map(widest, *map(jax.tree.leaves, together)))]
    trees = [jax.tree.unflatten(jax.tree.structure(models[0]), leaves) for leaves in cast] or together
    return trees[: len(models)], None if base is None else trees[-1]


def warn_if_nothing_moves(method: Method, aligner: Method | None, spec: PermSpec | None) -> None:
    """Warn where a method that is there to bring units into one order finds none that can be moved."""
    moves = aligner is not None or not (method.assumes_aligned or method.changes_program)
    if spec is not None and moves and all(group.size == 1 for group in spec.groups.values()):
        reasons = "; ".join(spec.notes) or "the spec gives no reason"
        warnings.warn(
            f"{(aligner or method).name}: perm_spec has no hidden units that can be moved, so the networks "
            f"are merged in the order in which their units are ({reasons}).",
            stacklevel=2,
        )


def check_batch(
    params: Params,
    apply_fn: ApplyFn | None,
    batch: Batch,
    labels: Labels = None,
    *,
    caller: str = "merge",
    name: str = "batch",
) -> tuple[Array | None, Array | None]:
    """Check inputs and labels, and bring them to the device.

    Args:
        params: parameters of one of the networks.
        apply_fn: their function, or None.
        batch: inputs, as the caller gave them.
        labels: their labels, likewise.
        caller: the function or method that checks, for messages.
        name: what it calls the batch.

    Returns:
        Inputs and labels, None for what is not there.

    Raises:
        ValueError: inputs are not finite or not what `apply_fn` takes, or labels do not fit them.
    """
    if batch is None:
        require(labels is None, caller, "labels", f"left out where there is no {name}", "labels")
        return None, None
    x = _as_inputs(caller, name, batch)
    if apply_fn is None:
        return x, None if labels is None else _check_labels(caller, "labels", labels, x, None)
    try:
        outputs = jax.tree.leaves(jax.eval_shape(apply_fn, params, x))
    except Exception as error:  # apply_fn is the user's: whatever it raises, the batch does not fit it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{caller}: {name} must be inputs [N, ...] that apply_fn takes; got shape {list(x.shape)}, "
            f"{x.dtype}. apply_fn said: {reason}"
        ) from error
    require(bool(outputs), caller, "apply_fn", "a function that returns arrays", "one that returns none")
    logits = outputs[0]
    require(
        logits.ndim >= 1 and logits.shape[0] == x.shape[0], caller, name,
        "of a rank at which apply_fn gives one output per input",
        f"shape {list(x.shape)} -> outputs {list(logits.shape)}", "Does it lack its batch axis?",
    )  # fmt: skip
    return x, None if labels is None else _check_labels(caller, "labels", labels, x, logits.shape[-1])


def _as_inputs(caller: str, name: str, batch: Batch) -> Array:
    """One array of finite numbers `[N, ...]` on the device; a list of batches is concatenated."""
    shapes = {_shape_of_one(part) for part in batch} if isinstance(batch, list) else set()
    if len(shapes) == 1 and shapes != {None}:
        batch = np.concatenate([np.asarray(part) for part in batch])
    is_array = hasattr(batch, "shape") or hasattr(batch, "__array__")
    advice = "Labels go in as labels=; of several batches of one shape give a list, which is concatenated."
    require(is_array, caller, name, "one array of inputs [N, ...]", a_kind_of(batch), advice)
    require(
        not isinstance(batch, Tracer), caller, name, "an array", f"a {type(batch).__name__}",
        "A merge runs outside of jax.jit, vmap and grad; autofusion_jax.functional and fuse go inside.",
    )  # fmt: skip
    values = batch if isinstance(batch, jax.Array) else np.asarray(batch)
    require(is_number(values), caller, name, "an array of numbers", f"{values.dtype}{list(values.shape)}")
    require(
        values.ndim >= 1 and 0 not in values.shape, caller, name, "a batch of one or more inputs [N, ...]",
        f"shape {list(values.shape)}",
    )  # fmt: skip
    x = jnp.asarray(values)
    if jnp.issubdtype(x.dtype, jnp.integer) and values.dtype != x.dtype:
        low, high = int(values.min()), int(values.max())
        bounds = jnp.iinfo(x.dtype)
        fits = bounds.min <= low and high <= bounds.max
        require(fits, caller, name, f"integers that {x.dtype} holds", f"{low} to {high}")
    check_finite(caller, name, x, "Are the inputs what they should be?")
    return x


def _shape_of_one(part: Any) -> tuple[int, ...] | None:
    """The shape of one input of a batch; None for what is no array of inputs."""
    shape = getattr(part, "shape", ())
    return tuple(shape[1:]) if len(shape) > 1 and not isinstance(part, Tracer) else None  # no rows of a batch


def _check_labels(caller: str, name: str, y: Any, x: Array, num_classes: int | None) -> Array:
    try:
        labels = np.asarray(y)
    except (TypeError, ValueError) as error:  # random keys, rows of different lengths
        raise ValueError(
            f"{caller}: {name} must be integers of shape [{x.shape[0]}]; got {a_kind_of(y)}."
        ) from error
    ok = labels.shape == (x.shape[0],) and np.issubdtype(labels.dtype, np.integer)
    require(
        ok, caller, name, f"integers of shape [{x.shape[0]}]", f"{labels.dtype}{list(labels.shape)}",
        "One class for each input: of one-hot rows give argmax(-1).",
    )  # fmt: skip
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and (num_classes is None or high < num_classes), caller, name,
        "0 or more" if num_classes is None else f"in [0, {num_classes}), the classes of the head",
        f"{low} to {high}",
    )  # fmt: skip
    return jnp.asarray(labels)
