"""The front door: `merge` for two networks, `merge_many` for more, `merge_repeats` for many keys."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.corrections.apply import check_correction, corrected
from autofusion_jax.merging.registry import get_method
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.sequence import merge_in_sequence
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import check_params
from autofusion_jax.trees import check_finite, check_same_structure
from autofusion_jax.types import Params
from autofusion_jax.validation import require

Batch = Any
"""Inputs `[N, ...]`, a pair `(x, y)` with labels `[N]`, or None for methods without data."""


def merge(
    params_a: Params,
    params_b: Params,
    perm_spec: PermSpec,
    batch: Batch,
    *,
    method: str | Method = "autofusion",
    key: Key[Array, ""] | None = None,
    correction: str | None = None,
    **options: Any,
) -> MergeResult:
    """Merge two networks of one architecture into one.

    Args:
        params_a: parameters of network A, any pytree of arrays.
        params_b: parameters of network B, same structure, shapes and dtypes.
        perm_spec: their permutation spec; remembers the `apply_fn`.
        batch: unlabelled inputs `[N, ...]`, or a pair `(x, y)` with integer labels `y [N]`
            where a method can use them, or None for methods that need no data.
        method: a name of `list_methods()`, or a `Method` from `methods.NAME(...)`.
        key: random key; `jax.random.key(0)` if left out.
        correction: what follows the merge: `"repair"` gives every hidden unit the spread that its
            parts had; `"reset_norm"` measures BatchNorm statistics again on the inputs.
        options: options of the method, if it is given by name.

    Returns:
        The merged network.

    Raises:
        ValueError: networks, spec and batch do not fit together, hold NaN, or an option is
            out of its range; says which, what it must be and what it was.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> apply_fn = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
        >>> init = lambda k: {"up": jax.random.normal(k, (3, 4)), "down": jax.random.normal(k, (4, 2))}
        >>> params_a, params_b = init(jax.random.key(0)), init(jax.random.key(1))
        >>> table = {"up": (None, af.out_axis("up")), "down": (af.in_axis("up"), None)}
        >>> spec = af.PermSpec.from_table(table, params_a, apply_fn=apply_fn)
        >>> result = af.merge(params_a, params_b, spec, jnp.ones((8, 3)), epochs=1, zeta=0.0)
        >>> result.params["up"].shape
        (3, 4)
    """
    models = [params_a, params_b]
    return merge_many(models, perm_spec, batch, method=method, key=key, correction=correction, **options)


def merge_many(
    models: Sequence[Params],
    perm_spec: PermSpec,
    batch: Batch,
    *,
    method: str | Method = "autofusion",
    key: Key[Array, ""] | None = None,
    correction: str | None = None,
    **options: Any,
) -> MergeResult:
    """Merge two or more networks of one architecture into one. See `merge`.

    A method that takes two networks merges the first two, then the result with the third, and
    so on (AutoFusion, appendix B.4), each time with its own weights: with `gamma` 0.5 the last
    network counts as much as all before it.

    Raises:
        ValueError: as `merge`.
    """
    keys = jax.random.split(jax.random.key(0) if key is None else key, 1)
    return merge_repeats(
        models, perm_spec, batch, method=method, keys=keys, correction=correction, **options
    )[0]


def merge_repeats(
    models: Sequence[Params],
    perm_spec: PermSpec,
    batch: Batch,
    *,
    keys: Key[Array, " repeats"],
    method: str | Method = "autofusion",
    correction: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[MergeResult]:
    """Merge the same networks once for every key, in one program where the method can.

    Args:
        models: parameters of the networks, A first.
        perm_spec: their permutation spec.
        batch: as in `merge`.
        keys: random keys `[repeats]`.
        method: as in `merge`.
        correction: as in `merge`.
        on_progress: called as `on_progress(done, total)` after every epoch of a learned method.
        options: options of the method, if it is given by name.

    Returns:
        One result for every key.

    Raises:
        ValueError: as `merge`.
    """
    if isinstance(method, str):
        method = get_method(method, **options)
    elif options:
        raise ValueError(
            f"merge: options must be given to the method itself when it is not a name; got {list(options)}. "
            f"Write methods.{method.name}({', '.join(f'{o}=...' for o in options)})."
        )
    check_correction(correction)
    _check_models(models, perm_spec)
    x, y = _check_batch(models[0], perm_spec, batch)
    task = MergeTask(tuple(models), perm_spec, perm_spec.apply_fn, x, y, keys, on_progress)
    if method.max_models is None or len(models) <= method.max_models:
        results = method.run(task)
    else:
        results = [merge_in_sequence(method, task, key) for key in keys]
    if correction is None:
        return results
    return [corrected(perm_spec, models, result, task.inputs, correction) for result in results]


def _check_models(models: Sequence[Params], spec: PermSpec) -> None:
    require(len(models) >= 2, "merge", "models", "two or more networks", len(models))
    names = ["params_a", "params_b", *(f"models[{i}]" for i in range(2, len(models)))]
    check_params(spec, models[0], caller="merge", name=names[0])
    for name, params in zip(names[1:], models[1:]):
        check_same_structure("merge", (names[0], name), models[0], params)
    for name, params in zip(names, models):
        check_finite("merge", name, params)


def _check_batch(params: Params, spec: PermSpec, batch: Batch) -> tuple[Array | None, Array | None]:
    x, y = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
    if x is None:
        return None, None
    x = jax.numpy.asarray(x)
    require(
        x.ndim >= 1 and x.shape[0] > 0, "merge", "batch", "a batch of one or more inputs [N, ...]",
        f"shape {list(x.shape)}",
    )  # fmt: skip
    check_finite("merge", "batch", {"x": x})
    if spec.apply_fn is None:
        return x, y
    try:
        outputs = jax.eval_shape(spec.apply_fn, params, x)
    except Exception as error:  # apply_fn is the user's: whatever it raises, the batch does not fit it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"merge: batch must be inputs [N, ...] that apply_fn takes; got shape {list(x.shape)}. "
            f"apply_fn said: {reason}"
        ) from error
    logits = jax.tree.leaves(outputs)[0]
    require(
        logits.ndim >= 1 and logits.shape[0] == x.shape[0], "merge", "batch",
        "of a rank at which apply_fn gives one output per input",
        f"shape {list(x.shape)} -> outputs {list(logits.shape)}", "Does it lack its batch axis?",
    )  # fmt: skip
    return x, None if y is None else _check_labels(y, x, logits.shape[-1])


def _check_labels(y: Any, x: Array, num_classes: int) -> Array:
    labels = np.asarray(y)
    ok = labels.shape == (x.shape[0],) and np.issubdtype(labels.dtype, np.integer)
    got = f"{labels.dtype}{list(labels.shape)}"
    require(ok, "merge", "labels (batch[1])", f"integers of shape [{x.shape[0]}]", got)
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < num_classes, "merge", "labels (batch[1])",
        f"in [0, {num_classes}), the classes of the head", f"{low} to {high}",
    )  # fmt: skip
    return jax.numpy.asarray(labels)
