"""MuDSC: merge units that are alike both in what they do and in their weights."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import Count, PositiveShare, Share
from autofusion_jax.batching import predict
from autofusion_jax.merging.corrections.reset_norm import reset_norm, stored_statistics
from autofusion_jax.merging.ensembles.members import logits_shape
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.merging.zipping.aligned_weights import aligned_correlations
from autofusion_jax.merging.zipping.family_matching import Matching, join, match_family
from autofusion_jax.merging.zipping.group_families import Family, find_families
from autofusion_jax.merging.zipping.revisits import Revisits
from autofusion_jax.merging.zipping.similarities import Evidence, block_similarities
from autofusion_jax.merging.zipping.zipit import match_measured, zipped_result
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params

ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""What `alpha="auto"` tries."""
PATIENCE = 5
"""Sweeps without gain after which to stop, as in the published code."""

VARIANT = {"zip": "zip", "align": "permute"}
"""Option `matching` -> variant of the matching."""


@factory
def mudsc(
    *,
    alpha: Share | Literal["auto"] = 0.5,
    matching: Literal["zip", "align"] = "zip",
    a: PositiveShare = 0.5,
    b: Share = 1.0,
    max_sweeps: Count = 100,
) -> Method:
    """Match units by `alpha C(weights) + (1 - alpha) C(activations)`, sweep after sweep, and merge them.

    Starts from the matching by activations alone. Then, one group at a time in random order,
    units are compared by the correlations of their weights, seen from the units around them as
    these are merged at present, mixed with those of their activations; and matched anew. The
    best sweep by the mean similarity of what is merged is kept. Takes any number of networks.

    Nested groups are matched by group alignment: the worth of matching two blocks is that of
    the best assignment of their units. The published code does so for the queries and keys of
    the heads and for their values apart from each other, after which the network is no longer
    a permutation of itself. Here all groups nested in the same heads share one permutation of
    them, found from the sum over these groups.

    Args:
        alpha: weight of the weights against the activations, in [0, 1]. 0: activations alone,
            without sweeps; 1: weights alone, from the networks as they are, without any data;
            `"auto"`: the best of a small grid on the inputs, by accuracy where labels are given,
            else by cross-entropy to the more confident one of the networks.
        matching: `"zip"`, as ZipIt merges, within and across networks; `"align"`, permutations.
        a: factor on the similarities of a merged unit, in (0, 1]; only for `"zip"`.
        b: share of the merges that a network may make within itself, in [0, 1]; only for `"zip"`.
        max_sweeps: sweeps over all groups after which to stop, >= 1; stops before that after 5
            without gain.

    Raises:
        ValueError: an option is out of range or unknown.

    References:
        Xu, Yuan, Wang, Wang, Song, Song: Training-free pretrained model merging, CVPR 2024,
        Algorithm 1, Eq. 6 and 8, Section 3.3.
    """
    fixed = None if isinstance(alpha, str) else alpha
    options = {"variant": VARIANT[matching], "a": a, "b": b}

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec, activations = task.require_perm_spec(), {}
        if fixed != 1:
            activations = block_similarities(
                spec, task.models, task.require_x(), kind="correlation", position="read"
            )
        merge_with = functools.partial(_merge, task, activations, options)
        order = _visit_order(key, max_sweeps, len(find_families(spec)))
        return _best(task, merge_with, order) if fixed is None else merge_with(order, fixed)

    return Method("mudsc", run, max_models=None)


def _visit_order(key: Key[Array, ""], sweeps: int, count: int) -> np.ndarray:
    """`[sweeps, count]`: a random order for every sweep."""
    draw = jax.vmap(lambda key: jax.random.permutation(key, count))
    return np.asarray(draw(jax.random.split(key, sweeps)))


def _merge(
    task: MergeTask,
    activations: Mapping[str, Evidence],
    options: Mapping[str, Any],
    visit_order: np.ndarray,
    alpha: float,
) -> MergeResult:
    spec = task.require_perm_spec()
    ignored = stored_statistics(spec, task.models[0], task.x)
    known = {} if alpha == 1 else activations
    found = match_dual(spec, task.models, known, visit_order, alpha=alpha, ignored=ignored, **options)
    result = zipped_result(task, found.matching, hard=options["variant"] == "permute")
    diagnostics = {"alpha": alpha, "sweeps": len(found.values), "converged": found.converged}
    history = {"similarity": np.asarray(found.values)}
    return dataclasses.replace(result, diagnostics=diagnostics, history=history)


def _best(task: MergeTask, merge_with: Callable[..., MergeResult], visit_order: np.ndarray) -> MergeResult:
    """The best of the merges with all `ALPHAS`; the first of equals."""
    logits_shape("mudsc", task)
    results = {alpha: merge_with(visit_order, alpha) for alpha in ALPHAS}
    scores = {alpha: score(task, result.params) for alpha, result in results.items()}
    best = results[max(scores, key=lambda alpha: scores[alpha])]
    return dataclasses.replace(best, diagnostics={**best.diagnostics, "scores": scores}, num_learned=1)


class Sweeps(NamedTuple):
    """What came of the sweeps: their values, and whether they stopped for lack of gain."""

    matching: Matching
    values: list[float]
    converged: bool


def match_dual(
    spec: PermSpec,
    models: Sequence[Params],
    activations: Mapping[str, Evidence],
    visit_order: np.ndarray,
    *,
    alpha: float,
    variant: str,
    a: float,
    b: float,
    ignored: frozenset[str] = frozenset(),
) -> Sweeps:
    """Match units in both spaces at once (MuDSC, Algorithm 1).

    Args:
        spec: the permutation spec.
        models: parameters of N networks.
        activations: inner group -> similarities by activations. A group that has none is matched by
            its weights.
        visit_order: `[sweeps, families]`, the order of `find_families(spec)` in each sweep.
        alpha: weight of the weights; with 0 no sweep is made, with 1 the first one starts from the
            networks as they are.
        variant: a key of `VARIANTS`.
        a: as for `greedy_zip`.
        b: as for `greedy_zip`.
        ignored: paths of leaves whose values do not count as weights.

    Returns:
        The matching of the best sweep, the value of every sweep, and whether they stopped early.
    """
    families = find_families(spec)
    match = functools.partial(match_family, spec, num_models=len(models), variant=variant, a=a, b=b)

    def visit(family: Family, state: Mapping[Family, Matching]) -> Matching:
        present, similarities = join(state.values()), {}
        for name in family.inner:
            weights = aligned_correlations(spec, models, present, name, ignored=ignored)
            measured = activations[name].beside(weights) if name in activations else weights
            similarities[name] = alpha * weights + (1 - alpha) * measured
        return match(family, similarities)

    state: dict[Family, Matching] = {}
    if alpha < 1:
        state = match_measured(spec, models, activations, variant=variant, a=a, b=b)
    best, best_value, misses = dict(state), -np.inf, 0
    worth, values = {}, []
    again = Revisits(spec, families, visit)
    for order in visit_order if alpha > 0 else ():
        for family in (families[i] for i in order):
            state[family], worth[family] = again.visit(family, state)
        values.append(sum(worth[family] for family in families) / len(families))
        if values[-1] > best_value:
            best, best_value, misses = dict(state), values[-1], 0
        else:
            state, misses = dict(best), misses + 1
        if misses == PATIENCE:
            break
    return Sweeps(join(best.values()), values, alpha == 0 or misses >= PATIENCE)


def score(task: MergeTask, params: Params) -> float:
    """How good a merged network is on the inputs of a task; higher is better.

    Where the networks hold BatchNorm statistics, these are measured again first: a zipped network is
    hardly ever of use with the mixed ones.

    Args:
        task: the networks that were merged, inputs `x` and perhaps labels `y`.
        params: parameters of the merged network.

    Returns:
        With labels the accuracy. Without, minus the cross-entropy to the predictions of whichever
        network is the most confident of an input, as AutoFusion's teacher.
    """
    spec, x = task.require_perm_spec(), task.require_x()
    if stored_statistics(spec, params, x):
        params, _ = reset_norm(spec, params, x)
    logits = predict(task.require_apply_fn(), params, x)
    if task.y is not None:
        return float(jnp.mean(jnp.argmax(logits, -1) == task.y))
    teacher = find_targets("mudsc", task, pseudo_labels="confidence", zeta=0.0)
    return float(jnp.mean(jnp.sum(teacher.probs * jax.nn.log_softmax(logits), -1)))
