"""ZipIt: merge the units of several networks that act alike, within and across networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from autofusion_jax.arguments import PositiveShare, Share
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.unit_features import Kind
from autofusion_jax.merging.zipping.aligned_weights import aligned_correlations
from autofusion_jax.merging.zipping.combine import split_by_model, zip_models
from autofusion_jax.merging.zipping.family_matching import Matching, join, match_family, ways_back
from autofusion_jax.merging.zipping.greedy import Variant
from autofusion_jax.merging.zipping.group_families import Family, find_families
from autofusion_jax.merging.zipping.partial import find_cut, stopped
from autofusion_jax.merging.zipping.revisits import Revisits
from autofusion_jax.merging.zipping.similarities import Evidence, block_similarities
from autofusion_jax.symmetry.site import Position
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params

MAX_SWEEPS = 20
"""Sweeps over families with few inputs after which to stop; one or two are enough as a rule."""

HARD = ("identity", "permute")
"""Variants in which every merged unit holds one unit of each network."""


@factory
def zipit(
    *,
    a: PositiveShare = 0.3,
    b: Share = 0.125,
    variant: Variant = "zip",
    kind: Kind = "correlation",
    position: Position = "read",
    stop_at: str | Sequence[str] | None = None,
) -> Method:
    """Merge the N n units of every group into n, the most alike first, and average what meets.

    Units are compared by their activations on the inputs. A merged unit is the mean of its parts, which
    may come from one network or from several; what read its parts reads it instead: leaf by
    leaf `sum_k M_k W_k U_k`. Heads and other outer groups of nested ones are permuted, not
    zipped, and what is nested in them is zipped block by block. Takes any number of networks.

    Two networks that differ by a permutation have units that act exactly alike: these are merged
    first, and the function is kept on the inputs. With fewer inputs than units, the units' values and
    weights have their say, as in `activation_matching`.

    Args:
        a: factor on the similarities of a merged unit, in (0, 1].
        b: share of the merges that a network may make within itself, in [0, 1].
        variant: `"zip"`; or `"permute"`, which only merges across networks, one unit of each, by
            an assignment; `"identity"`, the plain average; `"optimal"`, the best pairing of all
            units of two networks, slow.
        kind: what makes two units alike: `"correlation"` of their activations, as published,
            `"covariance"`, or `"second_moment"`, the uncentred `E[a b]`.
        position: where they are compared: `"read"` by the next weight, as published, or `"pre"`,
            before the nonlinearity. Where a group has no such site, the other one.
        stop_at: name of the site at which to stop zipping, or of several; they must separate the
            inputs from the outputs. What follows stays as it is, one head for each network: the
            result's `apply_fn` stacks their outputs `[num_heads, N, ...]`.

    Raises:
        ValueError: an option is out of range or unknown, or `stop_at` does not separate; lists
            the sites that do.

    References:
        Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman: ZipIt! Merging models from different tasks
        without training, ICLR 2024.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec, x = task.require_perm_spec(), task.require_x()
        options = {"variant": variant, "a": a, "b": b, "kind": kind, "position": position}
        cut = None if stop_at is None else find_cut(spec, task.models[0], x[:2], stop_at)
        matching = zip_matrices(spec, task.models, x, **options)
        result = zipped_result(task, matching, hard=variant in HARD)
        if cut is not None:
            back = ways_back(spec, matching, len(task.models))
            result = stopped(task, result, back, cut)
        return result

    return Method(
        "zipit",
        run,
        uses_key=False,
        max_models=2 if variant == "optimal" else None,
        changes_program=stop_at is not None,
    )


def zip_matrices(
    spec: PermSpec,
    models: Sequence[Params],
    x: Shaped[Array, "N ..."],
    *,
    variant: str,
    a: float,
    b: float,
    kind: str,
    position: Position,
) -> Matching:
    """Find the merge and unmerge matrices of all groups from the units' activations.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of N networks.
        x: inputs.
        variant: as for `zipit`; so are the others.
    """
    similarities = block_similarities(spec, models, x, kind=kind, position=position)
    return join(match_measured(spec, models, similarities, variant=variant, a=a, b=b).values())


def match_measured(
    spec: PermSpec,
    models: Sequence[Params],
    similarities: Mapping[str, Evidence],
    *,
    variant: str,
    a: float,
    b: float,
) -> dict[Family, Matching]:
    """Match every family of groups by itself; those without similarities last, by the units' weights.

    Where activations leave doubt, as with few inputs, the families are then matched again in the order
    of the forward pass, with the weights of their units seen from the merged units around them, until
    none changes.

    Args:
        spec: the permutation spec.
        models: parameters of N networks.
        similarities: inner group -> what activations say.
        variant: as for `zipit`; so are the others.
    """
    found: dict[Family, Matching] = {}
    for family in sorted(find_families(spec), key=lambda f: not similarities.keys() >= set(f.inner)):
        known = {name: similarities[name].alone() for name in family.inner if name in similarities}
        for name in (name for name in family.inner if name not in known):
            known[name] = aligned_correlations(spec, models, join(found.values()), name)
        found[family] = match_family(spec, family, known, len(models), variant=variant, a=a, b=b)
    if variant != "identity":
        _settle(spec, models, similarities, found, variant=variant, a=a, b=b)
    return found


def _settle(
    spec: PermSpec,
    models: Sequence[Params],
    similarities: Mapping[str, Evidence],
    found: dict[Family, Matching],
    **options: Any,
) -> None:
    """Match those families again whose activations leave doubt, until none changes."""
    families = find_families(spec)
    unsure = [
        f for f in families if any(n in similarities and similarities[n].doubt is not None for n in f.inner)
    ]

    def visit(family: Family, state: Mapping[Family, Matching]) -> Matching:
        around, known = join(state.values()), {}
        for name in family.inner:
            weights = aligned_correlations(spec, models, around, name)
            known[name] = similarities[name].beside(weights) if name in similarities else weights
        return match_family(spec, family, known, len(models), **options)

    again = Revisits(spec, families, visit)
    for _ in range(MAX_SWEEPS):
        before = dict(found)
        for family in unsure:
            found[family], _ = again.visit(family, found)
        if all(found[family] is before[family] for family in unsure):
            break


def zipped_result(task: MergeTask, matching: Matching, *, hard: bool) -> MergeResult:
    """The zipped network; `hard` if the matching is one permutation for each network."""
    spec = task.require_perm_spec()
    count = len(task.models)
    merges, unmerges = split_by_model(count, matching.merge, matching.unmerge)
    outer = {name for group in spec.groups.values() for name in group.nested_in}
    alignments = [{name: m / count if name in outer else m for name, m in merge.items()} for merge in merges]
    perms = {name: jnp.argmax(u, -2) for name, u in unmerges[1].items()} if hard and count == 2 else {}
    return MergeResult(
        zip_models(spec, task.models, matching.merge, matching.unmerge),
        task.apply_fn,
        perms=perms,
        alignments=tuple(alignments),
        weights=(1.0,) * count,
    )
