"""OT fusion: align networks to the first one layer by layer, by optimal transport of their units."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.matching.unit_distances import (
    activation_distances,
    unit_costs,
    weight_distances,
)
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.site import Position
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import identity_perms, permute, soften
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

GROUNDS = ("weights", "activations")
POSITIONS = ("pre", "read")
SINKHORN_ITERATIONS = 200


def ot_fusion(
    *,
    ground: str = "weights",
    reg: float | None = None,
    gamma: float | None = None,
    position: Position = "pre",
) -> Method:
    r"""Transport the units of every network to those of the first, then average the weights.

    Group by group, from the input on: `T` minimises `sum_ij T_ij c(i, j)` over couplings of the
    units of A with those of B, both of uniform mass, and B becomes
    `diag(1/m) T W T'^T diag(1/m')`: rows of the map sum to one. The cost is the squared distance
    of the weights that come in, those before being aligned already, or of activations. Exactly
    solved, the coupling is a permutation; with entropy, a soft one.

    For nested groups (heads, and units in each) the cost of matching two outer units is that of
    the best matching of their inner ones.

    Args:
        ground: `"weights"` or `"activations"`: what the distance of two units is taken between.
        reg: weight of the entropy, > 0, in units of the mean cost of the group; None: exact.
        gamma: weight of the first network, in [0, 1], the others sharing the rest; the same for
            all if None.
        position: for activations: `"pre"` the nonlinearity, or as the next weight `"read"`s them;
            the other where a group has no such place.

    Returns:
        The method. `soft_perms`, for two networks with `reg`, are the maps; `perms` without.

    Raises:
        ValueError: an option is unknown or out of range.

    References:
        Singh, Jaggi: Model fusion via optimal transport, NeurIPS 2020, Algorithm 1.
    """
    if ground not in GROUNDS:
        raise unknown_name("ot_fusion", "ground", ground, GROUNDS)
    if position not in POSITIONS:
        raise unknown_name("ot_fusion", "position", position, POSITIONS)
    require(reg is None or reg > 0, "ot_fusion", "reg", "> 0, or None for exact transport", reg)
    require(gamma is None or 0 <= gamma <= 1, "ot_fusion", "gamma", "in [0, 1] or None", gamma)

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec, count = task.require_perm_spec(), len(task.models)
        first = 1 / count if gamma is None else gamma
        weights = (first, *((1 - first) / (count - 1),) * (count - 1))
        alignments = [_start(spec, reg)]
        for params in task.models[1:]:
            models = (task.models[0], params)
            if ground == "weights":
                alignments.append(_align_by_weights(spec, models, reg))
            else:
                alignments.append(_align_by_activations(spec, models, task.require_x(), position, reg))
        aligned = [permute(spec, params, maps) for params, maps in zip(task.models, alignments)]
        params, maps = average(aligned, weights), alignments[1] if count == 2 else {}
        perms, soft_perms = (maps, {}) if reg is None else ({}, maps)
        return MergeResult(params, task.apply_fn, perms, tuple(alignments), weights, soft_perms=soft_perms)

    return Method("ot_fusion", run, uses_key=False, max_models=None)


def _align_by_weights(spec: PermSpec, models: Sequence[Params], reg: float | None) -> dict[str, Array]:
    """One group after the other, in the order of the forward pass, outer groups before inner ones."""
    maps = _start(spec, reg)
    known: list[str] = []
    for name in spec.groups:
        for group in (*(outer for outer in spec.groups[name].nested_in if outer in spec.groups), name):
            if group not in known:
                distances = weight_distances(spec, models, maps, known)
                maps[group] = _transport(unit_costs(spec, group, distances), reg)
                known.append(group)
    return maps


def _align_by_activations(
    spec: PermSpec, models: Sequence[Params], x: Array, position: Position, reg: float | None
) -> dict[str, Array]:
    """All groups that are nested in as many others at once, those that are nested in none first."""
    maps = _start(spec, reg)
    depths = {name: len(group.nested_in) for name, group in spec.groups.items()}
    for depth in sorted(set(depths.values())):
        aligned = (models[0], permute(spec, models[1], maps))
        names = [name for name in spec.groups if depths[name] == depth]
        distances = activation_distances(spec, aligned, x, names, position)
        maps.update({name: _transport(unit_costs(spec, name, distances), reg) for name in names})
    return maps


def _start(spec: PermSpec, reg: float | None) -> dict[str, Array]:
    identity = identity_perms(spec)
    return identity if reg is None else soften(spec, identity)


def _transport(cost: Array, reg: float | None) -> Array:
    """The map that is cheapest: a permutation, or with entropy a matrix whose rows sum to one."""
    if reg is None:
        return solve_assignment(-cost)
    scale = jnp.maximum(cost.mean((-2, -1), keepdims=True), jnp.finfo(cost.dtype).tiny)
    soft = jnp.exp(log_sinkhorn(-cost / scale, tau=reg, num_iters=SINKHORN_ITERATIONS))
    return soft / soft.sum(-1, keepdims=True)
