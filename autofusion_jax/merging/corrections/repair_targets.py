"""Targets of REPAIR: means and spreads of the parts' pre-activations, mixed as the merged units are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import scale_of, wide, widened
from autofusion_jax.symmetry.axes import Axis, Factor
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import permute


class Spread(NamedTuple):
    """Mean and standard deviation of the units at a site, each `[*outer, n]`."""

    mean: Array
    std: Array


def spread(values: Inexact[Array, "..."], num_outer: int) -> Spread:
    """The spread of activations `[*samples, *outer, n]`."""
    samples = tuple(range(values.ndim - num_outer - 1))
    unit = scale_of(widened(values))  # of values of any size, squares neither over- nor underflow
    values = wide(values) / unit
    return Spread(unit * values.mean(samples), unit * values.std(samples))


def mixed(
    spec: PermSpec, sites: Sequence[Site], measured: Sequence[Mapping[str, Spread]], result: MergeResult
) -> dict[str, Spread]:
    """Mix the networks' spreads as their units are: means of means, and of standard deviations.

    Args:
        spec: the permutation spec.
        sites: the sites.
        measured: for each network, site name -> spread of its units.
        result: the merge; its `alignments` and `weights` say what its units are made of.

    Returns:
        Site name -> the spread that the merged units should have.
    """
    units = _units_spec(spec, sites)
    totals: dict[str, Array] = {}
    for spreads, alignment, weight in zip(measured, result.alignments, result.weights, strict=True):
        parts = {f"{name}/{field}": v for name, s in spreads.items() for field, v in s._asdict().items()}
        parts |= {f"{name}/weight": jnp.ones_like(s.mean) for name, s in spreads.items()}
        moved = permute(units, parts, alignment)
        totals = {name: totals.get(name, 0) + weight * value for name, value in moved.items()}

    def part(name: str, field: str) -> Array:
        return totals[f"{name}/{field}"] / totals[f"{name}/weight"]

    return {site.name: Spread(part(site.name, "mean"), part(site.name, "std")) for site in sites}


def _units_spec(spec: PermSpec, sites: Sequence[Site]) -> PermSpec:
    """A spec for vectors `[*outer, n]` of one number for each unit at each site."""
    leaves = []
    for site in sites:
        group = spec.groups[site.group]
        axes = []
        for name in (*group.nested_in, group.name):
            if name in spec.stacks:
                axes.append(Axis(((Factor(spec.stacks[name], stack=name),),)))
            else:
                axes.append(Axis(((Factor(spec.groups[name].size, name),),), "out"))
        leaves += [LeafSpec(f"{site.name}/{field}", tuple(axes)) for field in ("mean", "std", "weight")]
    return PermSpec(tuple(leaves), spec.groups, stacks=spec.stacks)
