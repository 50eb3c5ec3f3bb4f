"""Clusters of units, and the greedy loop that finds them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


class Clusters(NamedTuple):
    """Which units are merged; a pytree.

    Attributes:
        labels: the merged unit in `[0, n)` that each of the N n units goes to, -1 for none.
        value: mean similarity of what was merged, at the moment of merging.
    """

    labels: Int[Array, "*outer rows"]
    value: Float[Array, "*outer"]


class _State(NamedTuple):
    """The loop over merges; a cluster goes by the name of its first unit."""

    similarity: Float[Array, "rows rows"]  # of clusters; -inf on the diagonal
    bound: Float[Array, "rows"]  # no less than the largest in each row, -inf where absorbed
    owner: Int[Array, "rows"]  # the cluster of each unit
    closed: Bool[Array, "models rows"]  # clusters closed for a model's sake do not merge with each other
    self_merges: Int[Array, "models"]
    gains: Float[Array, "rows"]  # similarity at which a cluster was absorbed
    num_left: Int[Array, ""]
    # The merge to be made next:
    kept: Int[Array, ""]
    gone: Int[Array, ""]
    best: Float[Array, ""]  # their similarity, -inf if there is none that may be made
    merged: Float[Array, "rows"]  # the similarities of the merged cluster


def zip_matrix(
    similarity: Float[Array, "rows rows"],
    num_models: int,
    allowance: Int[Array, "models"],
    a: float | Float[Array, ""],
    *,
    lift_budget: bool,
) -> tuple[Clusters, Int[Array, "models"]]:
    """The loop of `greedy_zip`, to be compiled by its caller.

    Args:
        similarity: as for `greedy_zip`, one matrix; pairs with NaN are never merged.
        num_models: N.
        allowance: merges within itself that each model may still make; 0 for none at all.
        a: as for `greedy_zip`.
        lift_budget: as for `greedy_zip`.

    Returns:
        The clusters, and the merges that each model made within itself.
    """
    rows = similarity.shape[-1]
    n = rows // num_models
    units = jnp.arange(rows)
    is_of = units // n == jnp.arange(num_models)[:, None]  # [models, rows]
    similarity = similarity.astype(jnp.promote_types(similarity.dtype, jnp.float32))
    # NaN, which only a traced matrix may have, would keep the loop from ending.
    never = jnp.eye(rows, dtype=bool) | jnp.isnan(similarity)
    similarity = jnp.where(never, -jnp.inf, similarity)

    def loop(state: _State, allowance: Array) -> _State:
        return jax.lax.while_loop(
            lambda state: (state.num_left > n) & (state.best > -jnp.inf),
            lambda state: _find(_merge(state, is_of, allowance), a),
            _find(state, a),
        )

    none, zeros = jnp.zeros(num_models, jnp.int32), jnp.zeros(rows, similarity.dtype)
    no_merge = (jnp.array(0), jnp.array(0), zeros[0], zeros)
    bound, closed = jnp.max(similarity, axis=1), is_of & (allowance <= 0)[:, None]
    state = _State(similarity, bound, units, closed, none, zeros, jnp.array(rows), *no_merge)
    state = loop(state, allowance)
    if lift_budget:
        bound = jnp.where(state.owner == units, jnp.inf, -jnp.inf)
        state = state._replace(closed=jnp.zeros_like(closed), bound=bound)
        state = loop(state, jnp.full(num_models, rows))
    # Clusters are numbered by their first units; where too many are left, the first ones go.
    number = jnp.cumsum(state.owner == units) - 1 - (state.num_left - n)
    labels = jnp.maximum(number[state.owner], -1)
    value = jnp.where(state.num_left > n, -jnp.inf, jnp.sum(state.gains) / (rows - n))
    return Clusters(labels, value), state.self_merges


def _merge(state: _State, is_of: Array, allowance: Array) -> _State:
    """Make the merge that was found."""
    kept, gone, merged = state.kept, state.gone, state.merged
    # First of all writes, then reads: so the matrix is changed in place and never copied.
    similarity = jax.lax.dynamic_update_slice(state.similarity, merged[None], (kept, 0))
    similarity = jax.lax.dynamic_update_slice(similarity, merged[:, None], (0, kept))
    owner = jnp.where(state.owner == state.gone, kept, state.owner)
    self_merges = state.self_merges + (is_of[:, kept] & is_of[:, gone])
    closed = state.closed.at[:, kept].set(state.closed[:, kept] | state.closed[:, gone])
    closed = closed | (is_of & (self_merges >= allowance)[:, None])
    fresh = jnp.where(_may_merge(kept, owner, closed), merged, -jnp.inf)
    bound = jnp.maximum(state.bound, fresh).at[kept].set(jnp.max(fresh)).at[gone].set(-jnp.inf)
    return state._replace(
        similarity=similarity,
        bound=bound,
        owner=owner,
        closed=closed,
        self_merges=self_merges,
        gains=state.gains.at[gone].set(state.best),
        num_left=state.num_left - 1,
    )


def _find(state: _State, a: float | Array) -> _State:
    """Find the next merge: put bounds right until the largest of them is attained."""
    similarity = state.similarity

    def look(bound: Array) -> tuple[Array, Array, Array, Array]:
        top = _first(bound, jnp.max(bound))
        row = jnp.where(_may_merge(top, state.owner, state.closed), similarity[top], -jnp.inf)
        return bound, top, row, jnp.max(row)

    def lower(found: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        bound, top, _, best = found
        return look(bound.at[top].set(best))

    # A bound may be too high, as merges take partners away, but never too low: so the search is exact.
    found = jax.lax.while_loop(lambda found: found[3] < found[0][found[1]], lower, look(state.bound))
    bound, top, row, best = found
    partner = _first(row, best)
    kept, gone = jnp.minimum(top, partner), jnp.maximum(top, partner)
    merged = a * jnp.minimum(similarity[kept], similarity[gone])
    return state._replace(bound=bound, kept=kept, gone=gone, best=best, merged=merged)


def _first(values: Array, value: Array) -> Int[Array, ""]:
    """Where a value is first found; several times as fast as `argmax` on a CPU."""
    units = jnp.arange(values.shape[0])
    return jnp.min(jnp.where(values == value, units, values.shape[0]))


def _may_merge(cluster: Array, owner: Array, closed: Array) -> Bool[Array, "rows"]:
    """Whether there are clusters of these names that may merge with the given one."""
    return (owner == jnp.arange(owner.shape[0])) & ~jnp.any(closed & closed[:, cluster, None], axis=0)
