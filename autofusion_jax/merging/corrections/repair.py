"""REPAIR: give the merged network's pre-activations the spread that those of its parts have."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.corrections.repair_targets import Spread, mixed, spread
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.affine import AffineLeaves, AffineReader
from autofusion_jax.symmetry.capture import capture_sites, fitted_axes
from autofusion_jax.symmetry.factoring import transform_axes, views_of
from autofusion_jax.symmetry.program import FlatProgram, Override, flatten_program
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params
from autofusion_jax.validation import require

SMALLEST_STD = 1e-6
"""Units that vary less, relative to the largest at their site, are left as they are."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A site that can be corrected: the leaves that make it, and the number of its value."""

    site: Site
    leaves: AffineLeaves
    value: int


def repair(
    spec: PermSpec, models: Sequence[Params], result: MergeResult, x: Array
) -> tuple[Params, dict[str, Any]]:
    """Rescale and shift every hidden unit of a merged network, in its own weights (REPAIR).

    At every site where a weight makes a group, each unit of the merged network is given the
    mean and the standard deviation that its parts have on average: means of means, and of
    standard deviations. All sites are measured in one evaluation in which those before are
    already corrected. The correction is folded into the leaf that scales the pre-activation
    and the one that shifts it: a kernel and its bias, or the scale and bias of a BatchNorm. A
    site without a bias is only rescaled.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks that were merged.
        result: the merge; one network with the spec's `apply_fn`.
        x: inputs `[N, ...]`, evaluated at once.

    Returns:
        The corrected parameters, and which sites were corrected, only rescaled, or left.

    Raises:
        ValueError: no site can be corrected.

    References:
        Jordan, Sedghi, Saukh, Entezari, Neyshabur: REPAIR: REnormalizing Permuted Activations for
        Interpolation Repair, ICLR 2023.
    """
    program = flatten_program(spec, result.params, x, caller="repair")
    places = _places(spec, program)
    require(
        bool(places), "merge", "correction", 'None or "reset_norm" for this network', '"repair"',
        "Its program has no pre-activation that weights of its own scale.",
    )  # fmt: skip
    sites = tuple(place.site for place in places)
    measured = [_spreads(spec, sites, params, x) for params in models]
    targets = mixed(spec, sites, measured, result)
    params = _corrected(spec, tuple(places), result.params, targets, x)
    made = {site.leaf for site in spec.sites if site.position == "pre"}
    left = sorted(made - {site.leaf for site in sites})
    rescaled = [place.site.name for place in places if place.leaves.shift is None]
    return params, {"corrected": len(places), "only_rescaled": rescaled, "not_corrected": left}


def _places(spec: PermSpec, program: FlatProgram) -> list[Place]:
    """The sites to correct: of groups nested in one another, that of the innermost."""
    reader = AffineReader(program)
    makes = {
        leaf.path: {g for axis in leaf.axes if axis.role == "out" for g in axis.groups}
        for leaf in spec.leaves
    }
    found: list[Place] = []
    covered: set[tuple[int, str]] = set()
    for site in spec.sites:
        number = program.at(site) if site.position == "pre" else None
        leaves = reader.read(number) if number is not None else None
        if number is None or leaves is None:
            continue
        if all(site.group in makes[path] for path in (leaves.scale, *leaves.added)):
            found.append(Place(site, leaves, number))
            covered.update((number, outer) for outer in spec.groups[site.group].nested_in)
    return [place for place in found if (place.value, place.site.group) not in covered]


@jit_by_network(static_argnames=("sites",))
def _spreads(spec: PermSpec, sites: tuple[Site, ...], params: Params, x: Array) -> dict[str, Spread]:
    values = capture_sites(spec, params, x, sites=sites)
    return {site.name: spread(values[site.name], len(spec.groups[site.group].nested_in)) for site in sites}


@jit_by_network(static_argnames=("places",))
def _corrected(
    spec: PermSpec, places: tuple[Place, ...], params: Params, targets: dict[str, Spread], x: Array
) -> Params:
    program = flatten_program(spec, params, x, caller="repair")
    leaves = flatten_by_path(params)
    values = program.values(params, x)
    overrides: dict[int, Override] = {}
    factors = [program.new() for _ in places]
    for value in dict.fromkeys(place.value for place in places):
        raw = program.rename(value)
        here = [(place, factor) for place, factor in zip(places, factors) if place.value == value]
        for place, factor in here:
            shift = leaves[place.leaves.shift] if place.leaves.shift else None
            measure = functools.partial(_factor, spec, place, targets[place.site.name], shift)
            overrides[factor] = Override((raw,), measure)
        apply = functools.partial(_apply, spec, [place for place, _ in here])
        overrides[value] = Override((raw, *(factor for _, factor in here)), apply)
    for place, (scale, shift) in zip(places, program.evaluate(factors, values, overrides)):
        for path in (place.leaves.scale, *place.leaves.added):
            leaves[path] = _fold(spec, path, place.site.group, leaves[path], scale, jnp.multiply)
        if path := place.leaves.shift:
            leaves[path] = _fold(spec, path, place.site.group, leaves[path], shift, jnp.add)
    return unflatten_like(params, leaves)


def _factor(
    spec: PermSpec, place: Place, target: Spread, leaf: Array | None, value: Array
) -> tuple[Array, Array]:
    """The scale and the shift `[*outer, n]` that give the units of a value the target spread.

    Units that do not vary, as all do on one input, are only shifted. The `leaf` that shifts, if real, moves
    complex units along the real part alone.
    """
    axes = fitted_axes(place.site, value.shape)
    view = views_of(spec, axes, value, place.site.group)[place.site.occurrence]
    present = spread(view, len(spec.groups[place.site.group].nested_in))
    moves = present.std > SMALLEST_STD * jnp.max(present.std)
    scale = jnp.where(moves, target.std / jnp.where(moves, present.std, 1), 1)
    if leaf is None:
        return scale, jnp.zeros_like(scale)
    shift = target.mean - scale * present.mean
    return scale, shift if jnp.iscomplexobj(leaf) else shift.real


def _apply(spec: PermSpec, places: Sequence[Place], value: Array, *factors: tuple[Array, Array]) -> Array:
    """Scale and shift the units of a value that several places may share."""
    axes = fitted_axes(places[0].site, value.shape)
    by_view = {(place.site.group, place.site.occurrence): factor for place, factor in zip(places, factors)}
    seen: collections.Counter[str] = collections.Counter()

    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        factor = by_view.get((group, seen[group]))
        seen[group] += 1
        if factor is None:
            return piece
        scale, shift = (_stand(part, piece.ndim, (*outer_axes, axis)) for part in factor)
        return _of_kind(piece, piece * scale + shift)

    return transform_axes(spec, axes, value, action)


def _fold(spec: PermSpec, path: str, group: str, leaf: Array, vector: Array, combine: Any) -> Array:
    axes = next(entry.axes for entry in spec.leaves if entry.path == path)

    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name != group or role != "out":
            return piece
        return _of_kind(piece, combine(piece, _stand(vector, piece.ndim, (*outer_axes, axis))))

    return transform_axes(spec, axes, jnp.asarray(leaf), action)


def _stand(vector: Array, ndim: int, where: tuple[int, ...]) -> Array:
    """`[*outer, n]` with its axes on `where` among `ndim`."""
    padded = jnp.reshape(vector, vector.shape + (1,) * (ndim - vector.ndim))
    return jnp.moveaxis(padded, range(vector.ndim), where)


def _of_kind(piece: Array, corrected: Array) -> Array:
    """In the dtype of a piece; a real one of complex units takes the real part, all that it can hold."""
    is_real = not jnp.iscomplexobj(piece) and jnp.iscomplexobj(corrected)
    return (corrected.real if is_real else corrected).astype(piece.dtype)
