"""Activation matching: pair the units of two networks that act alike on the same inputs."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Num

from autofusion_jax.arguments import Share
from autofusion_jax.merging.fuse import fuse
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.unit_features import Kind
from autofusion_jax.merging.zipping.zipit import zip_matrices
from autofusion_jax.symmetry.site import Position
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import identity_perms
from autofusion_jax.types import Params


@factory
def activation_matching(
    *, kind: Kind = "correlation", position: Position = "read", gamma: Share = 0.5
) -> Method:
    """Permute B's units to those of A that act most alike, then interpolate.

    For each group by itself the assignment that maximises `sum_i s(a_i, b_perm(i))`, where s is
    a similarity of the activations over all inputs (and places of feature maps), streamed in
    batches. Of a nested group (the units of heads), all units of every pair of heads are matched
    first, which gives the worth of the pair; the heads are then matched once for all groups
    nested in them. The kinds disagree on most units of trained networks: say which was used.

    With fewer inputs than units the similarities leave much open: as far as they do, units are compared
    by how close their values are before the nonlinearity, and by their weights. So a permuted copy is
    found on one input. Complex activations are compared by the real part.

    Args:
        kind: `"correlation"` (Pearson), `"covariance"`, or `"second_moment"`, the uncentred
            `E[a b]`.
        position: `"read"`: what the next weight reads, after the nonlinearity; `"pre"`: before
            it. Where a group has no such site (queries and keys are read by no weight), the other;
            where it has none at all, its weights are compared.
        gamma: weight of model A, in [0, 1].

    Returns:
        A method for two networks; needs inputs, no labels, no key.

    Raises:
        ValueError: gamma out of range, unknown kind or position.

    References:
        Li, Yosinski, Clune, Lipson, Hopcroft: Convergent learning, ICLR 2016 (correlation).
        Ainsworth, Hayase, Srinivasa: Git Re-Basin, ICLR 2023, Section 3.1 (`E[a b]`).

    Example:
        >>> activation_matching(kind="second_moment").name
        'activation_matching'
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        spec = task.require_perm_spec()
        params_a, params_b = task.models
        perms = match_activations(spec, params_a, params_b, task.require_x(), kind=kind, position=position)
        params = fuse(params_a, params_b, perms, gamma, spec)
        alignments = (identity_perms(spec), perms)
        return MergeResult(params, task.apply_fn, perms, alignments, (gamma, 1 - gamma))

    return Method("activation_matching", run, uses_key=False)


def match_activations(
    spec: PermSpec,
    params_a: Params,
    params_b: Params,
    x: Num[Array, "N ..."],
    *,
    kind: str = "correlation",
    position: Position = "read",
) -> dict[str, Array]:
    """Find permutations of B's units by their activations; see `activation_matching`.

    Args:
        spec: a spec from `infer_perm_spec`.
        params_a: parameters of A.
        params_b: parameters of B.
        x: inputs.
        kind: a key of `KINDS`.
        position: where the activations are measured.

    Returns:
        B's permutations by group.

    Raises:
        ValueError: the spec has no sites or no `apply_fn`.
    """
    options = {"a": 1.0, "b": 0.0, "kind": kind, "position": position}  # a and b are for zipping only
    matching = zip_matrices(spec, (params_a, params_b), x, variant="permute", **options)
    return {
        name: jnp.argmax(matching.merge[name][..., group.size :], axis=-1)
        for name, group in spec.groups.items()
    }
