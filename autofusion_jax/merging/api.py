"""The front door: `merge` for two networks, `merge_many` for more, `merge_repeats` for many keys."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.alignment import align_networks, get_aligner
from autofusion_jax.merging.checks import Batch, check_batch, check_models, check_values, promoted
from autofusion_jax.merging.corrections.apply import check_correction, corrected
from autofusion_jax.merging.registry import as_method
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.sequence import run_method
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import all_finite
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require


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
        options: options of the method, if it is given by name; and `base`, `align`, `apply_fn` and
            `promote` of `merge_many`.

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
    perm_spec: PermSpec | None,
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

    Args:
        models: parameters of the networks, A first; one is enough for methods that make more of it.
        perm_spec: their permutation spec; None is enough for methods that neither move hidden units
            nor measure them.
        batch: as in `merge`.
        method: as in `merge`.
        key: as in `merge`.
        correction: as in `merge`.
        options: options of the method, if it is given by name; and `base`, `align`, `apply_fn` and
            `promote` of `merge_repeats`.

    Raises:
        ValueError: as `merge_repeats`.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> base, tuned = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}]
        >>> result = af.merge_many(tuned, None, None, base=base, method="task_arithmetic", scale=0.5)
        >>> result.params["w"].tolist()
        [0.5, 1.0]
    """
    keys = jax.random.split(jax.random.key(0) if key is None else key, 1)
    return merge_repeats(
        models, perm_spec, batch, method=method, keys=keys, correction=correction, **options
    )[0]


def merge_repeats(
    models: Sequence[Params],
    perm_spec: PermSpec | None,
    batch: Batch,
    *,
    keys: Key[Array, " repeats"],
    method: str | Method = "autofusion",
    base: Params | None = None,
    align: str | Method | None = None,
    correction: str | None = None,
    apply_fn: ApplyFn | None = None,
    promote: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[MergeResult]:
    """Merge the same networks once for every key, in one program where the method can.

    Args:
        models: parameters of the networks, A first.
        perm_spec: their permutation spec, or None, as in `merge_many`.
        batch: as in `merge`.
        keys: random keys `[repeats]`.
        method: as in `merge`.
        base: parameters of the network that all were fine-tuned from, for methods that add up what
            fine-tuning changed; others ignore it.
        align: a method that finds permutations (`"weight_matching"`, `"autofusion"` and so on), by
            which all networks are first brought to A's order of units; for methods that take the
            networks' units in the order in which they are. `base` is taken to be in A's order.
        correction: as in `merge`.
        apply_fn: the networks' function, where there is no spec that carries it.
        promote: bring leaves of different dtypes to the widest one instead of refusing them.
        on_progress: called as `on_progress(done, total)` after every epoch of a learned method.
        options: options of the method, if it is given by name.

    Returns:
        One result for every key.

    Raises:
        ValueError: networks, base, spec and batch do not fit together, hold NaN, or an option is
            out of its range; says which, what it must be and what it was.
    """
    method = as_method(method, options)
    check_correction(correction)
    aligner = None if align is None else get_aligner(align, method)
    if promote:
        models, base = promoted(models, base)
    check_models(models, base, perm_spec, min_models=method.min_models)
    if aligner is not None or not method.shows_nan:
        check_values(models, base)
    network = _network(perm_spec, apply_fn)
    x, y = check_batch(models[0], network, batch)
    task = MergeTask(tuple(models), perm_spec, network, x, y, keys, on_progress, base)
    if aligner is None:
        results = run_method(method, task)
    else:
        task, perms = align_networks(aligner, task)
        results = [
            dataclasses.replace(r, perms=perms[1], alignments=perms if r.alignments else ())
            for r in run_method(method, task)
        ]
    if method.shows_nan and not all_finite(results[0].params):
        check_values(models, base)
    if correction is None:
        return results
    return [corrected(task.spec, models, result, task.inputs, correction) for result in results]


def _network(spec: PermSpec | None, apply_fn: ApplyFn | None) -> ApplyFn | None:
    own = None if spec is None else spec.apply_fn
    require(
        own is None or apply_fn is None or apply_fn is own, "merge", "apply_fn",
        "left out where perm_spec carries one", "another",
    )  # fmt: skip
    return own or apply_fn
