"""Spherical linear interpolation of two networks."""

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.arguments import Share
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves, shared
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import cosine, weighted_sum
from autofusion_jax.types import Params, Scalar

ALMOST_PARALLEL = 0.9995
"""Absolute cosine above which the arc is taken for a line (mergekit's value)."""


@factory
def slerp(*, gamma: Share = 0.5) -> Method:
    r"""Go from B to A along the arc between them: leaf by leaf, with `theta` the angle between A and B,

    `(sin(gamma theta) A + sin((1 - gamma) theta) B) / sin(theta)`.

    The straight line `gamma A + (1 - gamma) B` shortens what stands at an angle; the arc does not.
    Where `|cos(theta)|` is above 0.9995 the two are almost parallel, and the line is taken. A leaf of zeros
    stands at right angles to every other. Angles are found relative to the leaves' own size, whatever it is.

    Args:
        gamma: weight of model A, in [0, 1]; `1 - t` of mergekit.

    Returns:
        A method for two networks; more are merged one after another. `interpolate_on_sphere` is its
        formula as a pure function, vmap-able over `gamma`.

    Raises:
        ValueError: gamma is not in [0, 1].

    References:
        Shoemake: Animating rotation with quaternion curves, SIGGRAPH 1985; for each tensor of a
        network as in mergekit: Goddard et al.: Arcee's MergeKit, EMNLP 2024 industry track.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
        >>> print(af.merge_many(models, None, None, method="slerp").params["w"])
        [0.70710677 0.70710677]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        params = interpolate_on_sphere(*task.models, gamma)
        return aligned_result(task, params, weights=(gamma, 1 - gamma))

    return Method("slerp", run, uses_key=False, assumes_aligned=True, granularity="leaf")


@jax.jit
def interpolate_on_sphere(params_a: Params, params_b: Params, gamma: Scalar) -> Params:
    """`(sin(gamma theta) A + sin((1 - gamma) theta) B) / sin(theta)`, leaf by leaf.

    Example:
        >>> a, b = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}
        >>> arc = jax.vmap(interpolate_on_sphere, (None, None, 0))(a, b, jnp.array([0.0, 0.5, 1.0]))
        >>> print(jnp.linalg.norm(arc["w"], axis=-1).round(3))
        [2. 2. 2.]
    """

    def leaf(a: Array, b: Array) -> Array:
        angle = cosine(a, b)
        straight = jnp.abs(angle) > ALMOST_PARALLEL
        theta = jnp.arccos(jnp.where(straight, 0, angle))
        shares = [
            jnp.where(straight, line, jnp.sin(line * theta) / jnp.sin(theta)) for line in (gamma, 1 - gamma)
        ]
        return kept(jnp.all(shared([a, b])), a, weighted_sum(shares, [a, b]))

    return merge_leaves(leaf, [params_a, params_b])
