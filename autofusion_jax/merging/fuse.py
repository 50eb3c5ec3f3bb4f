"""The merging operator of AutoFusion (Eq. 15) for whole pytrees."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from autofusion_jax.arguments import Share, checked
from autofusion_jax.merging.leafwise import kept, merge_leaves, shared
from autofusion_jax.merging.unit_features import in_wide
from autofusion_jax.merging.weights import add_up_to_one
from autofusion_jax.partition import split
from autofusion_jax.precision import weighted_sum
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import permute
from autofusion_jax.trees import in_containers_of
from autofusion_jax.types import Params, Perms, Scalar, SoftPerms


def interpolate(params_a: Params, params_b: Params, gamma: Scalar) -> Params:
    """`gamma * A + (1 - gamma) * B`, leaf by leaf (Eq. 5); leaves that are not floats are A's.

    Args:
        params_a: parameters of A.
        params_b: parameters of B, same paths.
        gamma: weight of A, in [0, 1].
    """
    return average([params_a, in_containers_of(params_a, params_b)], [gamma, 1 - gamma])


def average(models: Sequence[Params], weights: Sequence[Scalar] | Num[Array, " models"]) -> Params:
    """`sum_k weights[k] * models[k]`, leaf by leaf; leaves that are not floats are the first one's.

    Pure; jit-able, and vmap-able over `weights`.

    Args:
        models: parameters of one structure.
        weights: one for each.

    Example:
        >>> average([{"w": jnp.array([1.0])}, {"w": jnp.array([5.0])}], [0.75, 0.25])["w"].tolist()
        [2.0]
    """
    shares = jnp.stack([1.0 * jnp.asarray(weight) for weight in weights])

    def leaf(*values: Array) -> Array:
        return kept(shared(values) & add_up_to_one(shares), values[0], weighted_sum(shares, values))

    return merge_leaves(leaf, models)


@checked
def fuse(
    params_a: Params,
    params_b: Params,
    perms: Perms | SoftPerms,
    gamma: Share | Float[Array, ""],
    spec: PermSpec,
) -> Params:
    """Fuse two networks: `gamma W_A^l + (1 - gamma) P_l W_B^l P_{l-1}^T` for every leaf (Eq. 15).

    Pure; jit-able, and vmap-able over `gamma` and `perms`.

    Args:
        params_a: parameters of A.
        params_b: parameters of B, same paths.
        perms: B's permutations by group, hard (integers) or soft (floats).
        gamma: weight of A, in [0, 1].
        spec: the permutation spec of both.

    Returns:
        The fused parameters, in A's structure and dtypes.

    Raises:
        ValueError: something does not fit the spec, or gamma is a number outside [0, 1].

    Example:
        >>> from autofusion_jax.symmetry.axes import in_axis, out_axis
        >>> a = {"up": jnp.array([[1.0, 2.0]]), "down": jnp.array([[3.0], [4.0]])}
        >>> b = {"up": jnp.array([[2.0, 1.0]]), "down": jnp.array([[4.0], [3.0]])}
        >>> table = {"up": (None, out_axis("up")), "down": (in_axis("up"), None)}
        >>> spec = PermSpec.from_table(table, a)
        >>> fused = fuse(a, b, {"up": jnp.array([1, 0])}, 0.5, spec)
        >>> fused["up"].tolist(), fused["down"].tolist()
        ([[1.0, 2.0]], [[3.0], [4.0]])
    """
    numbers_a, rest = split(params_a)
    numbers_b, _ = split(in_containers_of(params_a, params_b))
    return rest.join(interpolate(numbers_a, permute(spec, in_wide(numbers_b), perms), gamma))


@checked
def fused_apply(
    spec: PermSpec,
    params_a: Params,
    params_b: Params,
    perms: Perms | SoftPerms,
    gamma: Share | Float[Array, ""],
    x: Array,
) -> Array:
    """The forward pass of the fused network; vmap-able over `gamma` and `perms`.

    Raises:
        ValueError: the spec carries no `apply_fn`, or see `fuse`.
    """
    if spec.apply_fn is None:
        raise ValueError("fused_apply: spec must carry an apply_fn; give PermSpec(..., apply_fn=f).")
    return spec.apply_fn(fuse(params_a, params_b, perms, gamma, spec), x)
