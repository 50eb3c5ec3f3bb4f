"""Linear CKA and the correlation of unit with unit, of two networks, at each site.

CKA compares the spaces that the units of a layer span. Reordering units does not change it, nor
does any rotation: it is the same before and after an alignment by permutations. What an alignment
changes is which unit stands opposite which: the mean correlation of unit i of one network with
unit i of the other. Two networks can be very alike by the one and not at all by the other.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import CountOrZero, Pytrees, checked
from autofusion_jax.symmetry.capture import moments
from autofusion_jax.symmetry.moments import Moments
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import in_containers_of, is_float
from autofusion_jax.types import Params
from autofusion_jax.validation import require


class Similarity(NamedTuple):
    """The similarity of two networks at one site.

    Attributes:
        cka: linear CKA in [0, 1]; NaN where a network's units never vary.
        unit_correlation: mean over units of the Pearson correlation of unit i of one network with
            unit i of the other, in [-1, 1]; over the units that vary in both, NaN if there are none.
    """

    cka: float
    unit_correlation: float


@checked
def linear_cka(moments: Moments, first: CountOrZero = 0, second: CountOrZero = 1) -> float:
    r"""Linear CKA of two networks' units, from their covariances: the feature-space form.

    `||C_ab||_F^2 / (||C_aa||_F ||C_bb||_F)` with the covariance blocks of the two networks, which is
    HSIC with linear kernels, normalised. It never holds a Gram matrix of the samples. For nested
    groups the mean over the outer indices (heads).

    Args:
        moments: of two or more networks over the same samples. In feature maps and sequences every
            place is a sample; the units alone are features.
        first: the number of one network.
        second: that of the other.

    Returns:
        A number in [0, 1]; NaN where a network's units never vary.

    Raises:
        ValueError: there is no such network.

    References:
        Kornblith, Norouzi, Lee, Hinton: Similarity of neural network representations revisited,
        ICML 2019, Sec. 3 and 4.

    Example:
        >>> from autofusion_jax.symmetry.moments import batch_moments
        >>> units = jnp.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> round(linear_cka(batch_moments(jnp.stack([units, units[:, ::-1]]), 0)), 5)
        1.0
    """
    _check_models("linear_cka", moments, first, second)
    blocks = ((first, second), (first, first), (second, second))
    ab, aa, bb = (_frobenius(moments.cross(i, j)) for i, j in blocks)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(ab**2 / (aa * bb)))


@checked
def unit_correlation(moments: Moments, first: CountOrZero = 0, second: CountOrZero = 1) -> float:
    """Mean correlation of unit i of one network with unit i of the other; see `Similarity`.

    Args:
        moments: of two or more networks over the same samples.
        first: the number of one network.
        second: that of the other.

    Raises:
        ValueError: there is no such network.

    Example:
        >>> from autofusion_jax.symmetry.moments import batch_moments
        >>> units = jnp.array([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]])
        >>> round(unit_correlation(batch_moments(jnp.stack([units, -units]), 0)), 5)
        -1.0
    """
    _check_models("unit_correlation", moments, first, second)
    together = np.asarray(jnp.diagonal(moments.cross(first, second), axis1=-2, axis2=-1), np.float64)
    stds = np.asarray(moments.std(), np.float64)[[first, second]]
    alive = np.all(stds > 0, axis=0)
    opposite = together / np.where(alive, stds.prod(0), 1)
    return float(opposite[alive].mean()) if alive.any() else float("nan")


@checked
def network_similarity(
    spec: PermSpec,
    models: Pytrees,
    batches: Iterable[Any],
    *,
    pairs: Sequence[tuple[int, int]] = ((0, 1),),
    sites: Sequence[Site] | None = None,
) -> dict[str, tuple[Similarity, ...]]:
    """Compare networks' activations at every site, streamed over batches.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: the networks' parameters; for a comparison after an alignment `apply_perm(...)` of one.
        batches: batches of inputs, each `[N, ...]`.
        pairs: which of `models` to compare with which.
        sites: which of the spec's sites; all of them if left out.

    Returns:
        Site name -> how alike the networks of each pair are.

    Raises:
        ValueError: there is no such network, or as `autofusion_jax.moments`.
    """
    measured = moments(spec, models, batches, sites=sites)
    return {
        name: tuple(Similarity(linear_cka(m, *pair), unit_correlation(m, *pair)) for pair in pairs)
        for name, m in measured.items()
    }


@checked
def task_vector_cosines(base: Params, models: Pytrees) -> Float[np.ndarray, "models models"]:
    """The cosines between the task vectors `params_k - base`, all leaves of floats as one vector.

    Args:
        base: the network that all were fine-tuned from.
        models: parameters of one structure, none of them the base itself.

    References:
        Ilharco et al.: Editing models with task arithmetic, ICLR 2023, Fig. 5.

    Example:
        >>> base, models = {"w": jnp.zeros(2)}, [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}]
        >>> task_vector_cosines(base, models).round(3).tolist()
        [[1.0, 0.707], [0.707, 1.0]]
    """
    origin = _as_vector(base)
    vectors = np.stack([_as_vector(in_containers_of(base, params)) - origin for params in models])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def _as_vector(params: Params) -> Float[np.ndarray, " d"]:
    """All leaves of floats in one vector of float64; complex numbers as their parts."""
    floats = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params) if is_float(leaf)]
    # a complex number of 16 bytes is two floats of 8
    parts = [v.astype(np.complex128).view(np.float64) if np.iscomplexobj(v) else v for v in floats]
    return np.concatenate([v.astype(np.float64) for v in parts])


@checked
def output_sites(spec: PermSpec) -> dict[str, Site]:
    """For every group the last site at which a weight reads it: the layer as the next one sees it."""
    return {site.group: site for site in spec.sites if site.position == "read"}


@checked
def l1_complexity(perm: Int[Array | np.ndarray, "..."] | Float[Array | np.ndarray, "..."]) -> float:
    """The L1 distance of a permutation matrix to the identity: `sum_ij |P_ij - I_ij|` (paper, D.2, Fig. 5).

    A hard permutation that moves m units has `2 m`; a doubly stochastic matrix `2 (n - trace)`. The
    largest is `2 n`. A random permutation leaves one unit in its place on average: `2 (n - 1)`. B's
    units come in the order of their random initialisation, so this says how far a permutation goes
    from that order, and not how good it is.

    Args:
        perm: a hard permutation `[n]` of integers or a matrix `[n, n]` of floats; those of nested
            groups, `[*outer, n]` and `[*outer, n, n]`, are summed over their outer indices.

    Raises:
        ValueError: neither of these.

    Example:
        >>> l1_complexity(jnp.array([1, 0, 2])), l1_complexity(jnp.full((2, 2), 0.5))
        (4.0, 2.0)
    """
    hard = jnp.issubdtype(perm.dtype, jnp.integer)
    fits = perm.ndim >= 1 if hard else perm.ndim >= 2 and perm.shape[-1] == perm.shape[-2]
    got = f"{perm.dtype}{list(perm.shape)}"
    require(fits, "l1_complexity", "perm", "integers [..., n] or floats [..., n, n]", got)
    identity = np.eye(perm.shape[-1])
    matrix = identity[np.asarray(perm)] if hard else np.asarray(perm, np.float64)
    return float(np.abs(matrix - identity).sum())


def _check_models(caller: str, moments: Moments, *wanted: int) -> None:
    num = len(moments.mean)
    require(all(0 <= i < num for i in wanted), caller, "first and second", f"in [0, {num})", wanted)


def _frobenius(matrix: Array) -> np.ndarray:
    return np.asarray(np.linalg.norm(np.asarray(matrix, np.float64), axis=(-2, -1)))
