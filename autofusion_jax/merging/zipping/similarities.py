"""How alike the units of N networks are, also across the blocks of nested groups.

A nested group has a block of `n` units for each index of its outer groups (the head_dim of each
head), and any block of one network may belong to any block of another. So its similarities
are those of all `G n` units of each network, `G` blocks in a row.
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float

from autofusion_jax.merging.similarity import BATCH_SIZE, KINDS, unit_vectors
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.transport.moments import Moments, batch_moments, stream_moments
from autofusion_jax.types import Params
from autofusion_jax.validation import unknown_name


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


def weight_correlations(
    spec: PermSpec, models: Sequence[Params], group: str
) -> Float[Array, "*stacks rows rows"]:
    """Pearson correlations of the units' weights, over every leaf axis that carries the group.

    Args:
        spec: the permutation spec.
        models: parameters of N networks, whose other groups are in a common order.
        group: name of a group.

    Returns:
        `[*stacks, N G n, N G n]`, the units of the first network first, block after block.
    """
    vectors = []
    for params in models:
        leaves = [jnp.moveaxis(leaf, -1, 0) for leaf in unit_vectors(spec, params, group)]
        vectors.append(in_blocks(spec, group, jnp.concatenate(leaves)))
    return batch_moments(jnp.stack(vectors), num_stacks(spec, group)).correlation()


def block_similarities(
    spec: PermSpec, models: Sequence[Params], x: Float[Array, "N ..."], *, kind: str, position: Position
) -> dict[str, Float[Array, "*stacks rows rows"]]:
    """How alike the units of N networks act on the same inputs, for every innermost group.

    Measured at the last site of the group. Where it has none at that position (queries and
    keys are read by no weight), the other position serves; where it has none at all, so that
    no activation can be measured, the correlations of the networks' weights.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks.
        x: inputs.
        kind: a key of `KINDS`.
        position: `"read"`: what the next weight reads, after the nonlinearity; `"pre"`: before it.

    Returns:
        group name -> `[*stacks, N G n, N G n]`, the units of the first network first.

    Raises:
        ValueError: unknown kind, or the spec has no sites or no `apply_fn`.
    """
    if kind not in KINDS:
        raise unknown_name("block_similarities", "kind", kind, KINDS)
    last = {(site.group, site.position): site for site in spec.sites}
    other: Position = "pre" if position == "read" else "read"
    groups = innermost_groups(spec)
    found = {name: last.get((name, position), last.get((name, other))) for name in groups}
    sites = {name: site for name, site in found.items() if site is not None}
    measured = _block_moments(spec, models, x, sites) if sites or not spec.sites else {}
    return {
        name: KINDS[kind](measured[name]) if name in measured else weight_correlations(spec, models, name)
        for name in groups
    }


def _block_moments(
    spec: PermSpec, models: Sequence[Params], x: Array, sites: Mapping[str, Site]
) -> dict[str, Moments]:
    """Moments of all blocks of each group at its site, over batches of inputs."""
    wanted = tuple(sites.values())

    def capture(models: Sequence[Params], batch: Array) -> dict[str, tuple[Array, int]]:
        captured = [capture_sites(spec, params, batch, sites=wanted) for params in models]
        return {
            name: (
                jnp.stack([in_blocks(spec, name, values[site.name]) for values in captured]),
                num_stacks(spec, name),
            )
            for name, site in sites.items()
        }

    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    return stream_moments(Partial(capture, list(models)), batches)
