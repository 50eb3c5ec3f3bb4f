"""Similarities of the units of N networks by their activations, also across the blocks of nested groups.

A nested group has a block of `n` units for each index of its outer groups (the head_dim of each
head), and any block of one network may belong to any block of another. So its similarities
are those of all `G n` units of each network, `G` blocks in a row.

Correlations need samples: of two numbers each they are all 1 or -1, of one they are none. So what `N`
samples say of the correlations of `n` units counts as `seen = min((N - 1) / n, 1)`, the part of the
directions of `n` units that their deviations can span. The rest comes from two things that one sample
shows: how close the units' values are, and (see `Evidence`) how alike their weights. With more samples
than units nothing changes.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Bool, Float, Inexact, Shaped

from autofusion_jax.merging.unit_features import BATCH_SIZE, KINDS
from autofusion_jax.symmetry.axes import Block, Concat, Factor, factors_of
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.moments import Moments, side_by_side, stream_moments
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params


def innermost_groups(spec: PermSpec) -> tuple[str, ...]:
    """The groups in which no other is nested: those whose units are compared."""
    outer = {name for group in spec.groups.values() for name in group.nested_in}
    return tuple(name for name in spec.groups if name not in outer)


def in_blocks(spec: PermSpec, group: str, values: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
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


class Evidence(NamedTuple):
    """What activations say of the units of one group: similarities `[*stacks, N G n, N G n]`; a pytree.

    Attributes:
        known: what they say for sure: all, where there are more samples than units.
        doubt: how much the units' weights count beside; None where nothing is in doubt.
        guess: how close the units' values are: stands for their weights where these cannot be
            compared yet.
    """

    known: Float[Array, "*stacks rows rows"]
    doubt: Float[Array, "*stacks rows rows"] | None = None
    guess: Float[Array, "*stacks rows rows"] | None = None

    def alone(self) -> Float[Array, "*stacks rows rows"]:
        """The similarities by activations alone."""
        return self.known if self.guess is None else self.beside(self.guess)

    def beside(self, weights: Float[Array, "*stacks rows rows"]) -> Float[Array, "*stacks rows rows"]:
        """The similarities, with those of the units' weights where activations leave doubt."""
        return self.known if self.doubt is None else self.known + self.doubt * weights


def block_similarities(
    spec: PermSpec, models: Sequence[Params], x: Shaped[Array, "N ..."], *, kind: str, position: Position
) -> dict[str, Evidence]:
    """How alike the units of N networks act on the same inputs, for every innermost group.

    Measured at the last site of a group at which no other group is counted over: the samples of
    two networks would differ in its order. Where no such site is at `position` (queries and
    keys are read by no weight), the other position serves.

    Units that never vary correlate with nothing (0), but where two stand at the same value
    (ReLU units that never fire) they act alike on all inputs: their correlation counts as 1. Where one
    network has several such units, or there are fewer samples than units, the values before the
    nonlinearity and the weights have their say, see `Evidence`.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks.
        x: inputs.
        kind: a key of `KINDS`.
        position: `"read"`: what the next weight reads, after the nonlinearity; `"pre"`: before it.

    Returns:
        group name -> evidence, the units of the first network first. Groups without any site are
        left out.

    Raises:
        ValueError: unknown kind, or the spec has no sites or no `apply_fn`.
    """
    measured = block_moments(spec, models, x, position=position)
    unsure = {name for name, moments in measured.items() if _is_unsure(moments, len(models))}
    # before the nonlinearity units differ that are all 0 behind it
    made = block_moments(spec, models, x, position="pre") if unsure and position != "pre" else measured
    return {
        name: _weighed(kind, moments, made[name]) if name in unsure else Evidence(_similarity(kind, moments))
        for name, moments in measured.items()
    }


def _is_unsure(moments: Moments, num_models: int) -> bool:
    """Whether there are fewer samples than units, or several units of one network that never vary."""
    still = np.asarray(_never_varies(moments)).reshape(-1, num_models, moments.mean.shape[-1])
    return bool(moments.count - 1 < still.shape[-1]) or int(still.sum(-1).max()) > 1


def shrunk_correlation(moments: Moments) -> Float[Array, "*outer rows rows"]:
    """The correlations as far as the samples span the units, for the rest how close their values are."""
    seen = _seen(moments)
    return seen * _similarity("correlation", moments) + (1 - seen) * closeness(moments)


def closeness(moments: Moments) -> Float[Array, "*outer rows rows"]:
    """How close the values of units are: 1 for equal ones, -1 for the two that are farthest apart.

    Linear in the mean squared distance: so an assignment by it is one by `E[a b]`, which one sample
    decides by the order of its values.
    """
    apart = moments.distances()
    farthest = jnp.max(apart, (-2, -1), keepdims=True)
    return 1 - 2 * apart / jnp.where(farthest > 0, farthest, 1)


def _seen(moments: Moments) -> Float[Array, ""]:
    return jnp.clip((moments.count - 1) / moments.mean.shape[-1], 0, 1)


@functools.partial(jax.jit, static_argnums=0)
def _weighed(kind: str, moments: Moments, made: Moments) -> Evidence:
    still = _never_varies(moments)
    seen = _seen(moments) * ~(still[..., :, None] & still[..., None, :])
    similarity = _similarity(kind, moments)
    # covariances have a unit, closeness has none: the mean size of a unit's own stands between them
    size = jnp.mean(jnp.diagonal(similarity, axis1=-2, axis2=-1))
    size = jnp.where((size > 0) & (kind != "correlation"), size, 1)
    doubt, guess = size * (1 - seen) / 2, closeness(made)
    return Evidence(seen * similarity + doubt * guess, doubt, guess)


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


@functools.partial(jax.jit, static_argnums=0)
def _similarity(kind: str, moments: Moments) -> Float[Array, "*stacks rows rows"]:
    if kind != "correlation":
        return KINDS[kind](moments)
    value, still = side_by_side(moments.mean), _never_varies(moments)  # [*stacks, N G n]
    alike = still[..., :, None] & still[..., None, :] & (value[..., :, None] == value[..., None, :])
    return jnp.where(alike, 1, moments.correlation())


def _never_varies(moments: Moments) -> Bool[Array, "*stacks rows"]:
    return jnp.diagonal(moments.cov, axis1=-2, axis2=-1) == 0


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
        group name -> moments of `[models, *stacks, G n]`, each in a `unit` of its own. Groups without any
        site are left out.

    Raises:
        ValueError: the spec has no sites or no `apply_fn`.
    """
    found = {name: _best_site(spec, name, position) for name in innermost_groups(spec)}
    sites = {name: site for name, site in found.items() if site is not None}
    if spec.sites and not sites:
        return {}
    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    capture = Partial(_Blocks(spec, tuple(sites.values())), list(models))
    return stream_moments(capture, batches, scaled=True)


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
