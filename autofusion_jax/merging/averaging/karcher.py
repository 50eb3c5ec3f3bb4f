"""The Karcher mean of any number of networks on a sphere."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.merging.averaging.directions import directions
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves, shared
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.types import Params


@factory
def karcher(*, num_iters: Count = 10, tolerance: Positive = 1e-6) -> Method:
    r"""Take the point of the sphere whose squared arcs to all networks are least in sum.

    Leaf by leaf, with `u_k = params_k / |params_k|`: the mean direction `m` starts at the mean of the
    `u_k` and goes along the great circle of the mean logarithm,
    `m <- cos(|s|) m + sin(|s|) s / |s|`, `s = 1/n sum_k theta_k / sin(theta_k) (u_k - cos(theta_k) m)`,
    `theta_k` the angle between `u_k` and `m`, until `|s|` is below `tolerance`. The merged leaf is
    `1/n sum_k |params_k|` times `m`. Leaves of zeros have no direction: `m` is the mean of the others;
    opposite ones have no arc between them: they do not move each other.

    Args:
        num_iters: largest number of steps, >= 1 (10 in mergekit).
        tolerance: length on the unit sphere below which a step or a mean counts as 0, > 0 (1e-5 in
            mergekit). Leaves themselves may be of any size.

    Returns:
        A method for any number of networks. `karcher_mean` is its formula as a pure function.

    Raises:
        ValueError: num_iters or tolerance out of range.

    References:
        Karcher: Riemannian center of mass and mollifier smoothing, Communications on Pure and Applied
        Mathematics 30, 1977; for each tensor of a network as in mergekit: Goddard et al.: Arcee's
        MergeKit, EMNLP 2024 industry track.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 3.0])}]
        >>> print(af.merge_many(models, None, None, method="karcher").params["w"])
        [1.4142135 1.4142135]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return aligned_result(task, karcher_mean(task.models, num_iters, tolerance))

    return Method("karcher", run, uses_key=False, max_models=None, assumes_aligned=True, granularity="leaf")


@jax.jit
def karcher_mean(
    models: Sequence[Params], num_iters: int | Array, tolerance: float | Float[Array, ""]
) -> Params:
    """The formula of `karcher`, leaf by leaf.

    Example:
        >>> models = [{"w": jnp.array([1.0, 0.0])}, *[{"w": jnp.array([0.0, 1.0])}] * 2]
        >>> mean = karcher_mean(models, 20, 1e-6)["w"]
        >>> print(f"{jnp.rad2deg(jnp.arctan2(mean[1], mean[0])):.2f}")  # two thirds of the arc
        60.00
    """

    def leaf(*values: Array) -> Array:
        polar = directions(values)
        rows = jnp.stack(polar.units).reshape(len(values), -1)
        mean = _mean_direction(rows, num_iters, tolerance).reshape(values[0].shape)
        return kept(jnp.all(shared(values)), values[0], jnp.mean(polar.lengths) * mean * polar.scale)

    return merge_leaves(leaf, models)


def _mean_direction(
    directions: Float[Array, "models n"], num_iters: int | Array, tolerance: float | Float[Array, ""]
) -> Float[Array, " n"]:
    """The Karcher mean of unit vectors; zeros do not count."""
    counts = jnp.any(directions != 0, -1)
    shares = counts / jnp.maximum(jnp.sum(counts), 1).astype(directions.dtype)

    def step(mean: Array) -> Array:
        cosines = jnp.sum(directions * mean, -1)
        across = directions - cosines[:, None] * mean
        # the angle by sine and cosine: near 1 a cosine in float32 tells no angle below 3e-4 from 0
        sines = jnp.linalg.norm(across, axis=-1)
        apart = sines >= tolerance
        stretch = jnp.where(apart, jnp.arctan2(sines, cosines) / jnp.where(apart, sines, 1), cosines > 0)
        return jnp.sum((shares * stretch)[:, None] * across, 0)

    def moves(state: tuple[Array, Array, Array]) -> Array:
        count, _, along = state
        return (count < num_iters) & (jnp.linalg.norm(along) >= tolerance)

    def move(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, mean, along = state
        size = jnp.linalg.norm(along)
        mean = jnp.cos(size) * mean + jnp.sin(size) / size * along
        mean = mean / jnp.linalg.norm(mean)
        return count + 1, mean, step(mean)

    centre = jnp.sum(shares[:, None] * directions, 0)
    size = jnp.linalg.norm(centre)
    is_first = jnp.arange(len(shares)) == jnp.argmax(shares)
    first = jnp.sum(is_first[:, None] * directions, 0)  # where the directions cancel out
    start = jnp.where(size < tolerance, first, centre / jnp.where(size < tolerance, 1, size))
    return jax.lax.while_loop(moves, move, (jnp.asarray(0), start, step(start)))[1]
