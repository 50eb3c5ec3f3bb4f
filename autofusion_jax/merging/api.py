"""The front door: `merge` for two networks, `merge_many` for more, `merge_repeats` for many keys."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import anything, checked
from autofusion_jax.merging.alignment import align_networks, get_aligner
from autofusion_jax.merging.checks import (
    Batch,
    Labels,
    check_batch,
    check_models,
    check_values,
    listed_networks,
    network_names,
    warn_if_nothing_moves,
)
from autofusion_jax.merging.corrections.apply import Correction
from autofusion_jax.merging.display import listed
from autofusion_jax.merging.finish import as_given, finished, networks_to_blame
from autofusion_jax.merging.method import MergeTask, Method, Named
from autofusion_jax.merging.progress import reported
from autofusion_jax.merging.registry import as_method, changed_options
from autofusion_jax.merging.repeats import merge_for_keys
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.streaming import can_stream
from autofusion_jax.merging.tied import Tie, find_ties
from autofusion_jax.partition import Rest, check_apply_fn, split, warn_of_others
from autofusion_jax.precision import is_64_bit, needs_64_bits
from autofusion_jax.symmetry.infer import fitted_spec
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import all_finite, is_float
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Networks = Annotated[Sequence[Params], anything()]
Spec = Annotated[PermSpec | None, anything()]
"""Checked by `check_models`, which names the network and the leaf."""


@checked
def merge(
    params_a: Params,
    params_b: Params,
    perm_spec: Spec,
    batch: Batch = None,
    *,
    method: Named = "autofusion",
    key: Key[Array, ""] | None = None,
    labels: Labels = None,
    base: Params | None = None,
    align: Named | None = None,
    correction: Correction | None = None,
    apply_fn: ApplyFn | None = None,
    promote: bool = False,
    progress: bool = False,
    **options: Any,
) -> MergeResult:
    """Merge two networks of one architecture into one.

    Args:
        params_a: parameters of network A, any pytree. What are no floats (counters, random keys, words) comes
            back as it is.
        params_b: parameters of network B, same paths, shapes and dtypes, in whatever containers.
        perm_spec: their permutation spec, which remembers the `apply_fn`; None is enough for methods that
            neither move hidden units nor measure them.
        batch: unlabelled inputs `[N, ...]`; left out for methods that need none.
        method: a name of `list_methods()`, or a `Method` from `methods.NAME(...)`.
        key: random key; `jax.random.key(0)` if left out. One of `jax.random.PRNGKey` does, too.
        labels: integer classes `[N]` of the inputs, for methods that can use them; pseudo-labels where
            there are none.
        base: parameters of the network that both were fine-tuned from, for methods that add up what
            fine-tuning changed; others ignore it.
        align: a method that finds permutations (`"weight_matching"`, `"autofusion"` and so on), by
            which all networks are first brought to A's order of units; for methods that take the
            networks' units in the order in which they are. `base` is taken to be in A's order.
        correction: what follows the merge: `"repair"` gives every hidden unit the spread that its
            parts had; `"reset_norm"` measures BatchNorm statistics again on the inputs.
        apply_fn: the networks' function `apply_fn(params, x)`, where there is no spec that carries it.
        promote: bring leaves of different dtypes to the widest one instead of refusing them.
        progress: show a progress bar. The logger `autofusion_jax` says the same, shown or not.
        options: options of the method where it is given by name: the keyword arguments of
            `methods.NAME`, such as `epochs=8`.

    Returns:
        The merged network, in A's containers. Leaves that are one array in all networks, such as an
        embedding and a head tied to it, are so in the merged one.

    Raises:
        ValueError: networks, base, spec and batch do not fit together or hold NaN, an option is out of its
            range, or the result is too large for its dtype; says which, what it must be and what it was.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> apply_fn = lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"]
        >>> init = lambda k: {"up": jax.random.normal(k, (3, 4)), "down": jax.random.normal(k, (4, 2))}
        >>> params_a, params_b = init(jax.random.key(0)), init(jax.random.key(1))
        >>> spec = af.infer_perm_spec(apply_fn, params_a, jnp.ones((8, 3)))
        >>> result = af.merge(params_a, params_b, spec, method="weight_matching")
        >>> result.params["up"].shape
        (3, 4)
    """
    return merge_many(
        [params_a, params_b], perm_spec, batch, method=method, key=key, labels=labels, base=base, align=align,
        correction=correction, apply_fn=apply_fn, promote=promote, progress=progress, **options,
    )  # fmt: skip


@checked
def merge_many(
    models: Networks,
    perm_spec: Spec,
    batch: Batch = None,
    *,
    method: Named = "autofusion",
    key: Key[Array, ""] | None = None,
    labels: Labels = None,
    base: Params | None = None,
    align: Named | None = None,
    correction: Correction | None = None,
    apply_fn: ApplyFn | None = None,
    promote: bool = False,
    progress: bool = False,
    **options: Any,
) -> MergeResult:
    """Merge two or more networks of one architecture into one.

    A method that takes two networks merges the first two, then the result with the third, and
    so on (AutoFusion, appendix B.4), each time with its own weights: with `gamma` 0.5 the last
    network counts as much as all before it.

    Args:
        models: parameters of the networks, A first; one is enough for methods that make more of it.
        perm_spec: as in `merge`, like all that follows.
        batch: unlabelled inputs `[N, ...]`.
        method: a name of `list_methods()`, or a `Method`.
        key: random key.
        labels: integer classes `[N]` of the inputs.
        base: parameters of the network that all were fine-tuned from.
        align: a method that finds permutations.
        correction: `"repair"` or `"reset_norm"`.
        apply_fn: the networks' function, where there is no spec that carries it.
        promote: bring leaves of different dtypes to the widest one.
        progress: show a progress bar.
        options: options of the method where it is given by name.

    Returns:
        The merged network.

    Raises:
        ValueError: as `merge`.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> base, tuned = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}]
        >>> result = af.merge_many(tuned, None, base=base, method="task_arithmetic", scale=0.5)
        >>> result.params["w"].tolist()
        [0.5, 1.0]
    """
    keys = jax.random.split(jax.random.key(0) if key is None else key, 1)
    return merge_repeats(
        models, perm_spec, batch, keys=keys, method=method, labels=labels, base=base, align=align,
        correction=correction, apply_fn=apply_fn, promote=promote, progress=progress, **options,
    )[0]  # fmt: skip


@checked
def merge_repeats(
    models: Networks,
    perm_spec: Spec,
    batch: Batch = None,
    *,
    keys: Key[Array, " repeats"],
    method: Named = "autofusion",
    labels: Labels = None,
    base: Params | None = None,
    align: Named | None = None,
    correction: Correction | None = None,
    apply_fn: ApplyFn | None = None,
    promote: bool = False,
    progress: bool = False,
    **options: Any,
) -> list[MergeResult]:
    """Merge the same networks once for every key, in one program where the method can.

    Args:
        models: as in `merge_many`, like all others but `keys`.
        perm_spec: their permutation spec, or None.
        batch: unlabelled inputs `[N, ...]`.
        keys: random keys `[repeats]`.
        method: a name of `list_methods()`, or a `Method`.
        labels: integer classes `[N]` of the inputs.
        base: parameters of the network that all were fine-tuned from.
        align: a method that finds permutations; it runs once, with the first key.
        correction: `"repair"` or `"reset_norm"`.
        apply_fn: the networks' function, where there is no spec that carries it.
        promote: bring leaves of different dtypes to the widest one.
        progress: show a progress bar.
        options: options of the method where it is given by name.

    Returns:
        One result for every key; `seconds` is the time of all divided by their number.

    Raises:
        ValueError: as `merge`.
    """
    start = time.perf_counter()
    method = as_method(method, options)
    aligner = None if align is None else get_aligner(align, method)
    models = listed_networks(models)
    if _runs_no_network(method, aligner, correction) and needs_64_bits(jax.tree.leaves([models, base])):
        with jax.enable_x64(True):
            wide = merge_repeats(
                models, perm_spec, batch, keys=keys, method=method, labels=labels, base=base,
                apply_fn=apply_fn, promote=promote, progress=progress,
            )  # fmt: skip
        return [jax.tree.map(_on_host, result) for result in wide]
    models, base = check_models(models, base, perm_spec, min_models=method.min_models, promote=promote)
    network = _network(perm_spec, apply_fn)
    warn_if_nothing_moves(method, aligner, perm_spec)
    task, rest = _task_of_numbers(models, base, perm_spec, network)
    if aligner is not None or not method.propagates_nan:
        check_values(task.models, task.base)
    x, y = check_batch(task.models[0], task.apply_fn, batch, labels)
    if task.perm_spec is not None and x is not None:
        task = dataclasses.replace(
            task, perm_spec=fitted_spec(task.perm_spec, task.models[0], x, caller="merge")
        )
    ties = find_ties([*task.models, *([] if base is None else [task.base])], perm_spec)
    with (
        reported(f"{method.name}, {len(models)} networks", progress) as on_progress,
        networks_to_blame(task := dataclasses.replace(task, x=x, y=y, on_progress=on_progress)),
    ):
        if method.needs_base:  # said before the networks are aligned, which may take long
            task.require_base()
        results = _run(method, aligner, task, keys)
        if method.propagates_nan and not all_finite(results[0].params):
            check_values(task.models, task.base)
        results = [finished(method.name, task, result, ties, correction) for result in results]
        jax.block_until_ready([result.params for result in results])
    recipe = _recipe(method, task, aligner, correction, rest, ties)
    seconds = (time.perf_counter() - start) / len(keys)
    whole = [as_given(result, task, models[0], network) for result in results]
    return [
        dataclasses.replace(
            result, recipe=recipe, seconds=seconds, perm_spec=_spec_of(perm_spec, result, models[0])
        )
        for result in whole
    ]


def _runs_no_network(method: Method, aligner: Method | None, correction: Correction | None) -> bool:
    """Tell whether a merge is arithmetic on leaves alone, which 64 bits make no other program of."""
    return can_stream(method) and aligner is None and correction is None


def _on_host(leaf: Any) -> Any:
    """64 bits as an array of numpy, which stays what it is where JAX allows 32."""
    return np.asarray(leaf) if is_64_bit(leaf) else leaf


def _task_of_numbers(
    models: Sequence[Params], base: Params | None, spec: PermSpec | None, network: ApplyFn | None
) -> tuple[MergeTask, Rest]:
    """The networks without the leaves that are no numbers, which no method sees, and the first one's."""
    together = [split(params) for params in (*models, *(() if base is None else (base,)))]
    rest = together[0][1]
    warn_of_others(network_names(models, base), [other for _, other in together])
    # what JAX makes of integers of 64 bits is for the methods; the result has the first network's own
    numbers = [
        jax.tree.map(lambda leaf: leaf if is_float(leaf) else jnp.asarray(leaf), each) for each, _ in together
    ]
    bound = None if network is None else rest.bind(network)
    spec = None if spec is None else spec.of_numbers(models[0])[0]
    origin = None if base is None else numbers[-1]
    return MergeTask(tuple(numbers[: len(models)]), spec, bound, base=origin), rest


def _run(
    method: Method, aligner: Method | None, task: MergeTask, keys: Key[Array, " repeats"]
) -> list[MergeResult]:
    if aligner is None:
        return merge_for_keys(method, task, keys)
    task, perms = align_networks(aligner, task, keys[0])
    return [
        dataclasses.replace(result, perms=perms[1], alignments=perms if result.alignments else ())
        for result in merge_for_keys(method, task, keys)
    ]


def _network(spec: PermSpec | None, apply_fn: ApplyFn | None) -> ApplyFn | None:
    if apply_fn is not None:
        check_apply_fn("merge", apply_fn)
    own = None if spec is None else spec.apply_fn
    require(
        own is None or apply_fn is None or apply_fn is own, "merge", "apply_fn",
        "left out where perm_spec carries one", "another",
    )  # fmt: skip
    return own or apply_fn


def _spec_of(spec: PermSpec | None, result: MergeResult, params: Params) -> PermSpec | None:
    """The networks' spec where it is the merged network's, too: that of another program has other leaves."""
    same = jax.tree.structure(result.params) == jax.tree.structure(params)
    return spec if same and spec is not None and result.apply_fn is spec.apply_fn else None


def _recipe(
    method: Method,
    task: MergeTask,
    aligner: Method | None,
    correction: Correction | None,
    rest: Rest,
    ties: Sequence[Tie],
) -> tuple[tuple[str, str], ...]:
    """What was done, in words; options that are as they are by default are left out."""
    labelled = "" if task.y is None else ", labelled"
    given = {
        "method": method.name,
        **{name: _said(value) for name, value in changed_options(method).items()},
        "networks": str(len(task.models)),
        "inputs": "" if task.x is None else f"{len(task.x):,}{labelled}",
        "base": "" if task.base is None else "given",
        "align": "" if aligner is None else aligner.name,
        "correction": correction or "",
        "carried through": f"{listed(rest.paths)}, as in the first network" if rest.paths else "",
        "notes": "" if task.perm_spec is None else "; ".join(task.perm_spec.notes),
        "tied": listed(f"{tie.path} = {tie.first}" for tie in ties),
    }  # fmt: skip
    return tuple((name, value) for name, value in given.items() if value)


def _said(value: Any) -> str:
    """An option in a few characters: numbers and words as they are, others by their name or number."""
    if isinstance(value, str | int | float):
        return str(value)
    named = getattr(value, "name", getattr(value, "__qualname__", ""))
    return named or (f"{len(value)} given" if isinstance(value, Sequence) else "given")
