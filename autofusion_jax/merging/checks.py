"""Checks of the front door, before any method runs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import check_params
from autofusion_jax.trees import check_finite, check_same_structure
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Batch = Any
"""Inputs `[N, ...]`, or None for methods without data."""

Labels = Any
"""Integer classes `[N]`, or None."""


def _by_name(models: Sequence[Params], base: Params | None) -> dict[str, Params]:
    """The networks by what messages call them."""
    names = ["params_a", "params_b", *(f"models[{i}]" for i in range(2, len(models)))]
    return dict(zip(names, models)) | ({} if base is None else {"base": base})


def check_models(
    models: Sequence[Params], base: Params | None, spec: PermSpec | None, *, min_models: int = 2
) -> None:
    """Raise ValueError if networks are too few, or do not fit one another or the spec."""
    must_be = "one or more networks" if min_models == 1 else "two or more networks"
    require(len(models) >= min_models, "merge", "models", must_be, len(models))
    if spec is not None:
        check_params(spec, models[0], caller="merge", name="params_a")
    for name, params in _by_name(models, base).items():
        advice = "promote=True brings dtypes to the widest."
        check_same_structure("merge", ("params_a", name), models[0], params, advice)


def check_values(models: Sequence[Params], base: Params | None) -> None:
    """Raise ValueError naming the first network and leaf that hold a NaN or an infinity."""
    for name, params in _by_name(models, base).items():
        check_finite("merge", name, params)


def promoted(models: Sequence[Params], base: Params | None) -> tuple[list[Params], Params | None]:
    """Bring every leaf to the widest dtype that it has in any network.

    Args:
        models: parameters of one structure.
        base: another one, or None.
    """
    together = [*models, *([] if base is None else [base])]
    if len({jax.tree.structure(params) for params in together}) > 1:
        return list(models), base  # and `check_models` says where they differ

    def widest(*leaves: Array) -> list[Array]:
        dtype = jnp.result_type(*leaves)
        return [jnp.asarray(leaf, dtype) for leaf in leaves]

    cast = list(jax.tree.transpose(jax.tree.structure(models[0]), None, jax.tree.map(widest, *together)))
    return cast[: len(models)], None if base is None else cast[-1]


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
    require(
        hasattr(batch, "shape") or hasattr(batch, "__array__"), caller, name, "one array of inputs [N, ...]",
        f"a {type(batch).__name__}", "Labels go in as labels=; several batches are concatenated before.",
    )  # fmt: skip
    x, y = batch, labels
    x = jnp.asarray(x)
    require(
        x.ndim >= 1 and x.shape[0] > 0, caller, name, "a batch of one or more inputs [N, ...]",
        f"shape {list(x.shape)}",
    )  # fmt: skip
    check_finite(caller, name, {"x": x})
    if apply_fn is None:
        return x, None if y is None else jnp.asarray(y)
    try:
        outputs = jax.eval_shape(apply_fn, params, x)
    except Exception as error:  # apply_fn is the user's: whatever it raises, the batch does not fit it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{caller}: {name} must be inputs [N, ...] that apply_fn takes; got shape {list(x.shape)}. "
            f"apply_fn said: {reason}"
        ) from error
    logits = jax.tree.leaves(outputs)[0]
    require(
        logits.ndim >= 1 and logits.shape[0] == x.shape[0], caller, name,
        "of a rank at which apply_fn gives one output per input",
        f"shape {list(x.shape)} -> outputs {list(logits.shape)}", "Does it lack its batch axis?",
    )  # fmt: skip
    return x, None if y is None else _check_labels(caller, "labels", y, x, logits.shape[-1])


def _check_labels(caller: str, name: str, y: Any, x: Array, num_classes: int) -> Array:
    labels = np.asarray(y)
    ok = labels.shape == (x.shape[0],) and np.issubdtype(labels.dtype, np.integer)
    got = f"{labels.dtype}{list(labels.shape)}"
    require(ok, caller, name, f"integers of shape [{x.shape[0]}]", got)
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < num_classes, caller, name, f"in [0, {num_classes}), the classes of the head",
        f"{low} to {high}",
    )  # fmt: skip
    return jnp.asarray(labels)
