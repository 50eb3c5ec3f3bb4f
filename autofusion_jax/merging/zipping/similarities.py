"""Similarities of the units of N networks by their activations, also across the blocks of nested groups.

A nested group has a block of `n` units for each index of its outer groups (the head_dim of each
head), and any block of one network may belong to any block of another. So its similarities
are those of all `G n` units of each network, `G` blocks in a row.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Shaped

from autofusion_jax.merging.unit_features import BATCH_SIZE, KINDS
from autofusion_jax.symmetry.axes import Block, Concat, Factor, factors_of
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.moments import Moments, stream_moments
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params


def innermost_groups(spec: PermSpec) -> tuple[str, ...]:
    """The groups in which no other is nested: those whose units are compared."""
    outer = {name for group in spec.groups.values() for name in group.nested_in}
    return tuple(name for name in spec.groups if name not in outer)


def in_blocks(spec: PermSpec, group: str, values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Put the blocks of a group in a row: `[*rest, *outer, n]` to `[*rest, *stacks, G n]`."""
    nested_in = spec.groups[group].nested_in
    first = values.ndim - 1 - len(nested_in)
    stacks = [first + i for i, name in enumerate(nested_in) if name in spec.stacks]
    values = jnp.moveaxis(values, stacks, range(first, first + len(stacks)))
    kept = first + len(stacks)
    return values.reshape(*values.shape[:kept], math.prod(values.shape[kept:]))


def num_stacks(spec: PermSpec, group: str) -> int:
    """How many stacks a group is nested in."""
    return sum(name in spec.stacks for name in spec.groups[group].nested_in)


def block_similarities(
    spec: PermSpec, models: Sequence[Params], x: Shaped[Array, "N ..."], *, kind: str, position: Position
) -> dict[str, Float[Array, "*stacks rows rows"]]:
    """How alike the units of N networks act on the same inputs, for every innermost group.

    Measured at the last site of a group at which no other group is counted over: the samples of
    two networks would differ in its order. Where no such site is at `position` (queries and
    keys are read by no weight), the other position serves.

    Units that never vary correlate with nothing (0), but where two stand at the same value
    (ReLU units that never fire) they act alike on all inputs: their correlation counts as 1.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks.
        x: inputs.
        kind: a key of `KINDS`.
        position: `"read"`: what the next weight reads, after the nonlinearity; `"pre"`: before it.

    Returns:
        group name -> `[*stacks, N G n, N G n]`, the units of the first network first. Groups
        without any site are left out.

    Raises:
        ValueError: unknown kind, or the spec has no sites or no `apply_fn`.
    """
    measured = block_moments(spec, models, x, position=position)
    if kind != "correlation":
        return {name: KINDS[kind](moments) for name, moments in measured.items()}
    return {name: _correlation(moments) for name, moments in measured.items()}


def _best_site(spec: PermSpec, group: str, position: Position) -> Site | None:
    sites = [site for site in spec.sites if site.group == group]
    own = {group, *spec.groups[group].nested_in}

    def rank(site: Site) -> tuple[bool, bool]:
        return _counted_over(site, group) <= own, site.position == position

    return max(reversed(sites), key=rank, default=None)


def _counted_over(site: Site, group: str) -> set[str]:
    """The groups whose indices tell apart the entries of one unit at a site."""

    def beside(block: Block) -> set[str]:
        at = next(i for i, term in enumerate(block) if group in _groups((term,)))
        rest, term = _groups((*block[:at], *block[at + 1 :])), block[at]
        blocks = () if isinstance(term, Factor) else term.blocks if isinstance(term, Concat) else term.members
        return rest.union(*(beside(inner) for inner in blocks if group in _groups(inner)))

    others = {name for axis in site.axes if group not in axis.groups for name in axis.groups}
    return others.union(*(beside(axis.block) for axis in site.axes if group in axis.groups))


def _groups(block: Block) -> set[str]:
    return {factor.group for factor in factors_of(block) if factor.group is not None}


@jax.jit
def _correlation(moments: Moments) -> Array:
    mean = jnp.moveaxis(moments.mean, 0, -2)
    value = mean.reshape(*mean.shape[:-2], -1)  # [*stacks, N G n]
    still = jnp.diagonal(moments.cov, axis1=-2, axis2=-1) == 0
    alike = still[..., :, None] & still[..., None, :] & (value[..., :, None] == value[..., None, :])
    return jnp.where(alike, 1, moments.correlation())


def block_moments(
    spec: PermSpec, models: Sequence[Params], x: Shaped[Array, "N ..."], *, position: Position
) -> dict[str, Moments]:
    """Moments of the units of N networks, all blocks of a group in a row, for every innermost group.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks.
        x: inputs.
        position: as for `block_similarities`; so is the site at which a group is measured.

    Returns:
        group name -> moments of `[models, *stacks, G n]`. Groups without any site are left out.

    Raises:
        ValueError: the spec has no sites or no `apply_fn`.
    """
    found = {name: _best_site(spec, name, position) for name in innermost_groups(spec)}
    sites = {name: site for name, site in found.items() if site is not None}
    if spec.sites and not sites:
        return {}
    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    return stream_moments(Partial(_Blocks(spec, tuple(sites.values())), list(models)), batches)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The values at one site of each group, all blocks in a row, as `stream_moments` takes them."""

    spec: PermSpec
    sites: tuple[Site, ...]

    def __call__(self, models: Sequence[Params], batch: Array) -> dict[str, tuple[Array, int]]:
        spec = self.spec
        captured = [capture_sites(spec, params, batch, sites=self.sites) for params in models]
        return {
            site.group: (
                jnp.stack([in_blocks(spec, site.group, values[site.name]) for values in captured]),
                num_stacks(spec, site.group),
            )
            for site in self.sites
        }
