"""How alike the units of several networks are: by their weights, and by their activations."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.symmetry.capture import moments
from autofusion_jax.symmetry.site import Position
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import element_shape, transform
from autofusion_jax.transport.moments import Moments
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

KINDS = {
    "correlation": Moments.correlation,
    "covariance": lambda moments: moments.cov,
    "second_moment": Moments.second_moment,
}
"""What makes a similarity of the moments: Pearson correlation, covariance, or `E[a b]`."""

BATCH_SIZE = 500


def unit_vectors(spec: PermSpec, params: Params, group: str) -> list[Float[Array, "*outer n weights"]]:
    """All weights of every unit of a group: one array for each leaf axis that carries it, in either role.

    Args:
        spec: the permutation spec of `params`.
        params: the parameters.
        group: name of the group.

    Returns:
        Arrays `[*outer, n, weights]`, biases, norm scales and statistics included, in the order
        of the leaves.
    """
    views: list[Array] = []

    def collect(leaf: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name == group:
            front = (*outer_axes, axis)
            lead = [leaf.shape[i] for i in front]
            views.append(jnp.moveaxis(leaf, front, range(len(front))).reshape(*lead, -1))
        return leaf

    transform(spec, params, collect)
    return views


def weight_similarity(
    spec: PermSpec, params_a: Params, params_b: Params, group: str
) -> Float[Array, "*outer n n"]:
    """Inner products of two networks' units, summed over every leaf axis that carries the group.

    Args:
        spec: the permutation spec of both.
        params_a: parameters of A.
        params_b: parameters of B, whose other groups are in A's order.
        group: name of the group.

    Returns:
        `[n, n]`, rows A's units, columns B's; `[*outer, n, n]` for a nested group.
    """
    total = jnp.zeros(element_shape(spec, group, soft=True), jnp.float32)
    for a, b in zip(unit_vectors(spec, params_a, group), unit_vectors(spec, params_b, group)):
        total += jnp.einsum("...ik,...jk->...ij", a, b)
    return total


def activation_similarities(
    spec: PermSpec,
    models: Sequence[Params],
    x: Float[Array, "N ..."],
    *,
    kind: str = "correlation",
    position: Position = "read",
) -> dict[str, Float[Array, "*outer rows rows"]]:
    """How alike the units of N networks act on the same inputs, group by group.

    A group that is live at several places (a residual stream) is measured at the last of them,
    where all that writes to it has been added up.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: parameters of the networks.
        x: inputs.
        kind: a key of `KINDS`.
        position: `"read"`: what the next weight reads, after the nonlinearity; `"pre"`: before it.

    Returns:
        group name -> `[*outer, N n, N n]`, the units of the first network first.

    Raises:
        ValueError: unknown kind, or a group has no such site.
    """
    if kind not in KINDS:
        raise unknown_name("activation_similarities", "kind", kind, KINDS)
    sites = {site.group: site for site in spec.sites if site.position == position}
    missing = [name for name in spec.groups if name not in sites]
    require(
        not missing, "activation_similarities", "perm_spec", f"a spec with {position!r} sites for all groups",
        f"none for {', '.join(missing[:5])}", "Use infer_perm_spec, the other position, or weights alone.",
    )  # fmt: skip
    batches = [x[start : start + BATCH_SIZE] for start in range(0, len(x), BATCH_SIZE)]
    measured = moments(spec, models, batches, sites=tuple(sites[name] for name in spec.groups))
    return {name: KINDS[kind](measured[sites[name].name]) for name in spec.groups}
