"""Matching of nested groups (heads, GroupNorm): which groups belong together, then their units.

Three steps, so that inner groups that share one outer group (the QK and the V channels of the
same heads) get one common outer permutation: `match_blocks` of every inner group; an assignment
of the outer group by the sum of these (`families.match_outer_groups`); then `group_align` or
`group_zip` of every inner group. With one inner group this is MuDSC's group alignment and group
zip. Its published code matches the heads of QK and of V apart from each other, after which the
network is another function.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.merging.zipping.clusters import Clusters, zip_matrix
from autofusion_jax.merging.zipping.greedy import check_similarity, permute_clusters, self_merges_allowed
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.validation import require


def match_blocks(
    similarity: Float[Array, "*stack rows rows"], num_models: int, num_groups: int
) -> Float[Array, "*stack others g g"]:
    """How well each group of model 0 can be matched with each group of every other model.

    Args:
        similarity: `[N g k, N g k]`, finite: by model, then by group, then by unit.
        num_models: N >= 2.
        num_groups: g.

    Returns:
        `[N - 1, g, g]`: mean similarity of the units of model 0's group h and those of model
        i's group j under their best assignment, at `[i - 1, h, j]`.

    Raises:
        ValueError: the shape of `similarity` is another, or it is not finite.

    References:
        Xu, Yuan, Wang, Wang, Song, Song: Training-free pretrained model merging (MuDSC),
        CVPR 2024, Section 3.3.
    """
    n = check_similarity("match_blocks", similarity, num_models)
    divides = num_groups >= 1 and n % num_groups == 0
    require(divides, "match_blocks", "num_groups", f"a divisor of {n}, the units of a model", num_groups)
    blocks = _by_group(similarity, num_models, num_groups)[..., 0, :, :, 1:, :, :]  # [g, k, others, g, k]
    blocks = jnp.moveaxis(blocks, (-3, -5, -2), (-5, -4, -3))  # [others, g, g, k, k]
    perms = solve_assignment(blocks)
    return jnp.mean(jnp.take_along_axis(blocks, perms[..., None], -1), (-1, -2))


def group_align(
    similarity: Float[Array, "*stack rows rows"], num_models: int, outer_perms: Int[Array, "*stack models g"]
) -> Clusters:
    """Align the units of every model's groups with those of model 0's groups they go with.

    Args:
        similarity: as for `match_blocks`.
        num_models: N.
        outer_perms: index form: group `perm[i, h]` of model i goes with model 0's group h.

    Returns:
        Labels `[g, N k]`: of the units of the groups that go with model 0's group h, model by
        model. `merge_matrices(labels, N)` gives the inner elements, `[g, k, N k]` and
        `[g, N k, k]`, to be used after the outer permutations. The value is the mean
        similarity of all matched units.

    References:
        MuDSC, CVPR 2024, Section 3.3, group alignment.
    """
    _check_outer("group_align", similarity, num_models, outer_perms)
    matched = permute_clusters(_matched(similarity, outer_perms), num_models)
    return matched._replace(value=jnp.mean(matched.value, -1))


def group_zip(
    similarity: Float[Array, "*stack rows rows"],
    num_models: int,
    outer_perms: Int[Array, "*stack models g"],
    *,
    a: float = 0.3,
    b: float = 0.125,
    lift_budget: bool = False,
) -> Clusters:
    """Zip the units of the groups that go together, group by group, in model 0's order.

    The budget of merges within a model, `b n (N - 1) / N` with `n = g k`, is one for all groups:
    the first ones may use it up. Besides, within one group no model makes more than
    `k (N - 1) / N`. Both are rounded down, but at least one.

    Args:
        similarity: as for `match_blocks`.
        num_models: N.
        outer_perms: index form: group `perm[i, h]` of model i goes with model 0's group h.
        a: as for `greedy_zip`.
        b: as for `greedy_zip`.
        lift_budget: as for `greedy_zip`; what is dropped is the first clusters of the group.

    Returns:
        As for `group_align`; the value is the mean similarity at the moment of merging.

    References:
        MuDSC, CVPR 2024, Section 3.3, group zip.
    """
    n = _check_outer("group_zip", similarity, num_models, outer_perms)
    budget = jnp.full(num_models, self_merges_allowed(b, n, num_models))
    blocks = _matched(similarity, outer_perms)  # [*stack, g, N k, N k]
    flat = blocks.reshape(-1, *blocks.shape[-3:])
    zipped = _zip_groups(flat, num_models, budget, a, lift_budget)
    return jax.tree.map(lambda x: x.reshape(*blocks.shape[:-3], *x.shape[1:]), zipped)


@functools.partial(jax.jit, static_argnames=("num_models", "lift_budget"))
def _zip_groups(
    blocks: Array, num_models: int, budget: Array, a: float | Array, lift_budget: bool
) -> Clusters:
    """Zip `[stack, g, N k, N k]`: one group after the other, what is left of the budget handed on."""
    per_group = max(blocks.shape[-1] // num_models * (num_models - 1) // num_models, 1)

    def zip_one(left: Array, block: Array) -> tuple[Array, Clusters]:
        allowance = jnp.minimum(left, per_group)
        clusters, used = zip_matrix(block, num_models, allowance, a, lift_budget=lift_budget)
        return left - used, clusters

    clusters = jax.lax.map(lambda groups: jax.lax.scan(zip_one, budget, groups)[1], blocks)
    return clusters._replace(value=jnp.mean(clusters.value, -1))


def _by_group(similarity: Array, num_models: int, num_groups: int) -> Array:
    """`[*stack, N g k, N g k]` to `[*stack, N, g, k, N, g, k]`."""
    shape = (num_models, num_groups, similarity.shape[-1] // (num_models * num_groups))
    return similarity.reshape(*similarity.shape[:-2], *shape, *shape)


def _matched(similarity: Array, outer_perms: Array) -> Float[Array, "*stack g rows rows"]:
    """The similarities of the units of those groups that go together, `[*stack, g, N k, N k]`."""
    if outer_perms.ndim > 2:
        return jax.vmap(_matched)(similarity, outer_perms)
    num_models, num_groups = outer_perms.shape
    groups, models = outer_perms.T, jnp.arange(num_models)  # [g, N], [N]
    parts = _by_group(similarity, num_models, num_groups)
    blocks = parts[
        models[:, None], groups[:, :, None], :, models[None], groups[:, None], :
    ]  # [g, N, N, k, k]
    rows = num_models * blocks.shape[-1]
    return jnp.swapaxes(blocks, 2, 3).reshape(num_groups, rows, rows)


def _check_outer(caller: str, similarity: Array, num_models: int, outer_perms: Array) -> int:
    n = check_similarity(caller, similarity, num_models)
    shape = outer_perms.shape
    fits = len(shape) >= 2 and shape[:-1] == (*similarity.shape[:-2], num_models) and n % shape[-1] == 0
    must_be = f"[{', '.join(map(str, similarity.shape[:-2]))}{num_models}, g] with g a divisor of {n}"
    require(fits, caller, "outer_perms", must_be, f"shape {shape}")
    return n
