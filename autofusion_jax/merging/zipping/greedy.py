"""ZipIt's matchings: which units of N networks become one unit of the merged network."""

import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from autofusion_jax.arguments import PositiveShare, Share, checked, one_of
from autofusion_jax.merging.zipping.clusters import Clusters, zip_matrix
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.validation import require

Matrices = tuple[Float[Array, "*outer n rows"], Float[Array, "*outer rows n"]]


@checked
def greedy_zip(
    similarity: Float[Array, "*outer rows rows"],
    num_models: int,
    *,
    a: PositiveShare = 0.3,
    b: Share = 0.125,
    lift_budget: bool = False,
) -> Matrices:
    """Merge the most similar two of N n units, within or across models, until n are left.

    A merged unit takes the similarities `a * min(row_i, row_j)` of its two parts: those above 0
    fall, those below rise. Ties go to the first pair in row-major order. As soon as a model has
    merged `b n (N - 1) / N` of its own units with each other (rounded down, but at least one,
    also for `b = 0`: so does the published code), no two of its clusters may merge any more; a
    merged unit counts as of the model of its first unit.

    One compiled loop with an upper bound of each row's maximum, put right only where it comes
    out on top: the same merges as a search of the whole matrix for each, in O(n^2) as long as
    few rows share their best partner.

    Args:
        similarity: `[N n, N n]`, symmetric, finite; model 0's units first, then model 1's. The
            diagonal is not read. ZipIt takes correlations.
        num_models: N >= 2.
        a: factor on the similarity of merged units, in (0, 1]; the default is the published one.
        b: how much of its part of all merges, `n (N - 1) / N`, a model may make within itself, in
            [0, 1]; the default is the published one.
        lift_budget: with three models or more the budget can forbid all that is left to merge.
            False drops model 0's first clusters then, which is what the published code does:
            the rows of their units in `unmerge_matrix` are 0. True goes on without a budget.

    Returns:
        `merge_matrix [n, N n]`, whose rows average the units of a cluster, and
        `unmerge_matrix [N n, n]`, 1 where a unit is in a cluster, else 0; merged units in
        the order of their first unit. Leading axes of `similarity` are kept.

    Raises:
        ValueError: an option is out of range, `similarity` is of the wrong shape or not finite.

    References:
        Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman: ZipIt! Merging models from different
        tasks without training, ICLR 2024, Section 4.3 (alpha and beta are `a` and `b`).

    Example:
        >>> similarity = jnp.array([[1, 0.1, 0.9, 0], [0.1, 1, 0, 0.5], [0.9, 0, 1, 0.2], [0, 0.5, 0.2, 1]])
        >>> merge_matrix, unmerge_matrix = greedy_zip(similarity, num_models=2)
        >>> print(merge_matrix)
        [[0.5 0.  0.5 0. ]
         [0.  0.5 0.  0.5]]
    """
    clusters = zip_clusters(similarity, num_models, a=a, b=b, lift_budget=lift_budget)
    return merge_matrices(clusters.labels, num_models)


def permute_zip(
    similarity: Float[Array, "*outer rows rows"], num_models: int, *, a: float = 0.3, b: float = 0.125
) -> Matrices:
    """Merge each unit of model 0 with one of every other model, by an assignment for each.

    Takes and returns what `greedy_zip` does; `a` and `b` are not read.
    """
    return merge_matrices(permute_clusters(similarity, num_models).labels, num_models)


def identity_zip(
    similarity: Float[Array, "*outer rows rows"], num_models: int, *, a: float = 0.3, b: float = 0.125
) -> Matrices:
    """Merge units of the same index: the plain average. Takes and returns what `greedy_zip` does."""
    n = check_similarity("identity_zip", similarity, num_models)
    labels = jnp.broadcast_to(jnp.tile(jnp.arange(n), num_models), similarity.shape[:-1])
    return merge_matrices(labels, num_models)


def optimal_zip(
    similarity: Float[Array, "*outer rows rows"], num_models: int, *, a: float = 0.3, b: float = 0.125
) -> Matrices:
    """Pair up all 2 n units, within or across two models, for the largest sum of similarities.

    Takes and returns what `greedy_zip` does, but for two models. Solved exactly on the host as
    an integer program: seconds at n = 128, a minute at n = 256, eight at n = 512.

    Raises:
        ValueError: there are more than two models.
    """
    check_similarity("optimal_zip", similarity, num_models)
    advice = "It merges pairs of units: use greedy_zip."
    require(num_models == 2, "optimal_zip", "num_models", "2", num_models, advice)
    labels = jax.ShapeDtypeStruct(similarity.shape[:-1], np.dtype(np.int32))
    pairs = jax.pure_callback(_pair_on_host, labels, similarity, vmap_method="expand_dims")
    return merge_matrices(pairs, num_models)


VARIANTS: dict[str, Callable[..., Matrices]] = {
    "identity": identity_zip,
    "optimal": optimal_zip,
    "permute": permute_zip,
    "zip": greedy_zip,
}
"""Name -> matching, all called as `greedy_zip`; only that one reads `a` and `b`."""
Variant = Annotated[str, one_of(*VARIANTS)]


def zip_clusters(
    similarity: Float[Array, "*outer rows rows"],
    num_models: int,
    *,
    a: float = 0.3,
    b: float = 0.125,
    lift_budget: bool = False,
) -> Clusters:
    """The clusters of `greedy_zip`; their value is minus infinity where any unit was dropped."""
    n = check_similarity("greedy_zip", similarity, num_models)
    allowance = jnp.full(num_models, self_merges_allowed(b, n, num_models))
    return _zip_all(similarity, num_models, allowance, a, lift_budget)


@functools.partial(jax.jit, static_argnames=("num_models", "lift_budget"))
def _zip_all(
    similarity: Array, num_models: int, allowance: Array, a: float | Array, lift_budget: bool
) -> Clusters:
    rows = similarity.shape[-1]

    def zip_one(matrix: Array) -> Clusters:
        return zip_matrix(matrix, num_models, allowance, a, lift_budget=lift_budget)[0]

    # One after the other: a loop under vmap would copy all matrices at every step.
    flat = jax.lax.map(zip_one, similarity.reshape(-1, rows, rows))
    return jax.tree.map(lambda x: x.reshape(*similarity.shape[:-2], *x.shape[1:]), flat)


def permute_clusters(similarity: Float[Array, "*outer rows rows"], num_models: int) -> Clusters:
    """The clusters of `permute_zip`."""
    n = check_similarity("permute_zip", similarity, num_models)
    blocks = jnp.stack([similarity[..., :n, i * n : (i + 1) * n] for i in range(1, num_models)], -3)
    perms = solve_assignment(blocks)  # [*outer, N - 1, n]: unit of model i for each of model 0
    matched = jnp.take_along_axis(blocks, perms[..., None], -1)
    first = jnp.broadcast_to(jnp.arange(n), (*perms.shape[:-2], 1, n))
    labels = jnp.concatenate([first, jnp.argsort(perms, -1)], -2)
    return Clusters(labels.reshape(*perms.shape[:-2], -1), jnp.mean(matched, (-3, -2, -1)))


@functools.partial(jax.jit, static_argnames="num_models")
def merge_matrices(labels: Int[Array, "*outer rows"], num_models: int) -> Matrices:
    """The matrices of clusters: rows of the first average, the second is binary; see `greedy_zip`."""
    unmerge = jax.nn.one_hot(labels, labels.shape[-1] // num_models, dtype=jnp.float32)
    sizes = jnp.sum(unmerge, axis=-2)
    return jnp.swapaxes(unmerge, -1, -2) / sizes[..., None], unmerge


def check_similarity(caller: str, similarity: Array, num_models: int) -> int:
    """Raise ValueError unless `similarity` is of the units of `num_models` models; their number n."""
    require(num_models >= 2, caller, "num_models", ">= 2", num_models)
    rows = similarity.shape[-1] if similarity.ndim >= 2 else 0
    fits = rows > 0 and similarity.shape[-2] == rows and rows % num_models == 0
    require(fits, caller, "similarity", f"[..., N n, N n] with N = {num_models}", f"shape {similarity.shape}")
    if not isinstance(similarity, Tracer):
        require(bool(jnp.isfinite(similarity).all()), caller, "similarity", "finite", "NaN or infinity")
    return rows // num_models


def self_merges_allowed(b: float, n: int, num_models: int) -> int:
    """How many merges of its own units end a model's merging within itself."""
    return max(int(n * (num_models - 1) // num_models * b + 1e-4), 1)


def _pair_on_host(similarity: Array) -> np.ndarray:
    """Perfect matching of largest weight in a complete graph; numbered by the first of each pair."""
    matrices = np.asarray(similarity, np.float64)
    rows = matrices.shape[-1]
    first, second = np.triu_indices(rows, 1)
    pairs = np.arange(len(first))
    ones = np.ones(2 * len(pairs))
    meets = csr_array((ones, (np.r_[first, second], np.r_[pairs, pairs])), shape=(rows, len(pairs)))
    labels = np.empty((*matrices.shape[:-1],), np.int32).reshape(-1, rows)
    for label, matrix in zip(labels, matrices.reshape(-1, rows, rows)):
        solved = milp(
            -matrix[first, second],
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(meets, 1, 1),
            options={"mip_rel_gap": 0},
        )
        chosen = solved.x > 0.5
        label[first[chosen]] = label[second[chosen]] = np.arange(rows // 2)
    return labels.reshape(matrices.shape[:-1])
