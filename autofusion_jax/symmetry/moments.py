"""Streaming means and covariances of the units of one, two or N models.

Activations may be complex: `cov[i, j] = E[(a_i - E a_i) conj(b_j - E b_j)]` is then Hermitian. Units are
alike as far as its real part says: a permutation does not turn phases, so a unit that differs from
another by a factor of modulus one is another unit.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Inexact

from autofusion_jax.precision import scale_of, wide, widened
from autofusion_jax.programs import jit_by_network
from autofusion_jax.validation import require


class Moments(NamedTuple):
    """Count, mean and covariance of the units of N models over the same samples; a pytree.

    Attributes:
        count: number of samples, a float: all leading positions (images, pixels, tokens).
        mean: `[num_models, *outer, n]`.
        cov: population covariance (divided by `count`) of all units of all models,
            `[*outer, num_models * n, num_models * n]`, one block per model, in order.
        unit: a power of two: `mean` and `cov` are those of the values divided by it. 1 unless they were
            measured so (see `stream_moments`).
    """

    count: Float[Array, ""]
    mean: Inexact[Array, "models ... n"]
    cov: Inexact[Array, "... rows rows"]
    unit: Float[Array, ""]

    def cross(self, first: int, second: int) -> Inexact[Array, "... n n"]:
        """The covariance of the units of model `first` (rows) with those of `second` (columns)."""
        n = self.mean.shape[-1]
        return self.cov[..., first * n : (first + 1) * n, second * n : (second + 1) * n]

    def std(self) -> Float[Array, "models ... n"]:
        """The standard deviation of every unit."""
        return jnp.sqrt(_by_model(_variance(self.cov), self.mean.shape))

    def correlation(self) -> Float[Array, "... rows rows"]:
        """The Pearson correlations, laid out as `cov`; 0 for a unit that never varies."""
        variance = _variance(self.cov)
        alive = variance > 0
        scale = jnp.where(alive, jax.lax.rsqrt(jnp.where(alive, variance, 1)), 0)
        return jnp.clip(self.cov.real * scale[..., :, None] * scale[..., None, :], -1, 1)

    def second_moment(self) -> Inexact[Array, "... rows rows"]:
        """The uncentred `E[a b^H] = cov + mean mean^H`, laid out as `cov`."""
        return self.cov + _outer(side_by_side(self.mean))

    def distances(self) -> Float[Array, "... rows rows"]:
        """The mean squared distances `E |a - b|^2` of all pairs of units, laid out as `cov`."""
        # of means and deviations apart: values far from 0 and near each other would cancel
        variance, mean = _variance(self.cov), side_by_side(self.mean)
        apart = variance[..., :, None] + variance[..., None, :] - 2 * self.cov.real
        return jnp.maximum(apart, 0) + jnp.abs(mean[..., :, None] - mean[..., None, :]) ** 2


def batch_moments(values: Inexact[Array, "models ... n"], num_outer: int) -> Moments:
    r"""Take the moments of one batch of activations.

    Two passes on shifted data (Chan et al., 1983): `mean = p + E[x - p]` with the first sample
    as the pivot p, then `cov = E[(x - mean)(x - mean)^T]`. Neither loses digits where the mean
    is large against the spread, and a unit that never varies gets a covariance of exactly 0.

    Args:
        values: activations `[num_models, *samples, *outer, n]`, at least one sample axis;
            16-bit floats are taken to float32.
        num_outer: number of outer axes, each index of which has a covariance of its own
            (heads, when n is the units of a head), >= 0.

    Returns:
        The moments of this batch.

    Raises:
        ValueError: `values` has no sample axis, no sample, or too few axes for `num_outer`.

    Example:
        >>> values = jnp.array([[[1.0, 0.0], [3.0, 4.0]]])  # one model, two samples, two units
        >>> moments = batch_moments(values, 0)
        >>> print(moments.mean, moments.std())
        [[2. 2.]] [[1. 2.]]
        >>> print(moments.cov)
        [[1. 2.]
         [2. 4.]]
    """
    pivot, moments = _about_pivot(values, num_outer, jnp.ones(()))
    return moments._replace(mean=pivot + moments.mean)


def combine(first: Moments, second: Moments) -> Moments:
    r"""Merge the moments of two disjoint sets of samples: the pairwise update of Chan et al.

    With `d = mean_2 - mean_1` and weights `w_i = count_i / count`,
    `mean = mean_1 + w_2 d` and `cov = w_1 cov_1 + w_2 cov_2 + w_1 w_2 d d^T`.
    Moments of count 0 are the neutral element.

    Args:
        first: the moments of one set.
        second: those of the other, of the same units.

    Returns:
        The moments of the union.

    Raises:
        ValueError: the two are not of the same models and units.

    References:
        Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample
        variances, Stanford STAN-CS-79-773, 1979; Algorithms for computing the sample variance:
        analysis and recommendations, The American Statistician 37(3), 1983.
    """
    require(
        first.mean.shape == second.mean.shape,
        *("combine", "second.mean", f"of shape {first.mean.shape} as in first", second.mean.shape),
    )
    count = first.count + second.count
    w1, w2 = (part.count / jnp.maximum(count, 1) for part in (first, second))
    unit = jnp.where(first.count > 0, first.unit, second.unit)
    ratio = second.unit / jnp.where(unit > 0, unit, 1)
    delta = ratio * second.mean - first.mean
    between = _outer(side_by_side(delta))
    cov = w1 * first.cov + w2 * (ratio * ratio * second.cov) + w1 * w2 * between
    return Moments(count, first.mean + w2 * delta, cov, unit)


def stream_moments(
    capture: Callable[[Any], dict[str, tuple[Array, int]]], batches: Iterable[Any], *, scaled: bool = False
) -> dict[str, Moments]:
    """Take the moments of activations over many batches, holding those of one batch at a time.

    `capture` and the moments of its batch are one compiled program, traced once for each shape
    of batch. All batches are taken about the first sample of the first one, so that rounding is
    relative to the spread and not to the mean (measured in float32, mean 1e4, spread 1, 2000
    batches: 2e-6 instead of 4e-5).

    Args:
        capture: `capture(batch)` gives name -> (`values`, `num_outer`) as for `batch_moments`;
            pure. Arrays that it closes over become constants of the program: rather bind
            them, as in `jax.tree_util.Partial(fn, params)`.
        batches: pytrees of arrays with the samples in front; sizes may differ.
        scaled: divide the values of each name by a power of two, the size of the largest, so that no square
            over- or underflows; `Moments.unit` says by which.

    Returns:
        Name -> moments over all batches.

    Raises:
        ValueError: there is no batch, the names or shapes change between batches, or a
            value is NaN or infinite (or its square is); names the site.
    """
    bound = capture if isinstance(capture, Partial) else Partial(capture)
    total: dict[str, tuple[Array, Moments]] = {}
    for batch in batches:
        new = _measure(bound.func, bound.args, bound.keywords, batch, scaled)
        names = sorted(total or new)
        require(sorted(new) == names, "stream_moments", "capture(batch)", f"of names {names}", sorted(new))
        total = _add(total, new) if total else new
    require(
        bool(total),
        *("stream_moments", "batches", "at least one batch with one captured value", "none"),
        "A generator is empty when it is read a second time.",
    )
    moments = {name: part._replace(mean=pivot + part.mean) for name, (pivot, part) in total.items()}
    for name, part in moments.items():
        bad = int(jnp.sum(~(jnp.isfinite(part.mean) & jnp.isfinite(part.std()))))
        got = f"{bad} of {part.mean.size} units with NaN, infinite or overflowing values"
        require(bad == 0, "stream_moments", f"values of {name!r}", "finite", got)
    return moments


@jit_by_network(static_argnames=("scaled",))
def _measure(
    capture: Callable[..., dict[str, tuple[Array, int]]], args: tuple[Any, ...], options: dict[str, Any],
    batch: Any, scaled: bool,
) -> dict[str, tuple[Array, Moments]]:  # fmt: skip
    return {
        name: _about_pivot(values, num_outer, scale_of(widened(values)) if scaled else jnp.ones(()))
        for name, (values, num_outer) in capture(*args, batch, **options).items()
    }


@jax.jit
def _add(
    total: dict[str, tuple[Array, Moments]], new: dict[str, tuple[Array, Moments]]
) -> dict[str, tuple[Array, Moments]]:
    """Merge moments about their own pivots into moments about the pivots of `total`."""
    out = {}
    for name, (pivot, moments) in total.items():
        other_pivot, other = new[name]
        require(
            pivot.shape == other_pivot.shape,
            *("stream_moments", f"units of {name!r}", f"of shape {pivot.shape}", other_pivot.shape),
        )
        shift = other_pivot - pivot * (moments.unit / other.unit)
        out[name] = pivot, combine(moments, other._replace(mean=other.mean + shift))
    return out


def _about_pivot(values: Array, num_outer: int, unit: Array) -> tuple[Array, Moments]:
    """The first sample `[models, *outer, n]`, and the moments with the mean less that sample."""
    require(num_outer >= 0, "batch_moments", "num_outer", ">= 0", num_outer)
    unit_axes = num_outer + 1
    require(
        values.ndim >= unit_axes + 2 and 0 not in values.shape[1:-unit_axes],
        *("batch_moments", "values", f"[models, *samples, *outer, n] with {num_outer} outer axes"),
        f"shape {values.shape}",
    )
    values = wide(values)
    values = (values / unit.astype(values.real.dtype)).reshape(
        values.shape[0], -1, *values.shape[-unit_axes:]
    )  # [models, samples, *outer, n]
    count, pivot = values.shape[1], values[:, 0]
    mean = jnp.mean(values - pivot[:, None], axis=1)
    centred = values - pivot[:, None] - mean[:, None]
    # [*outer, models, n, models, n]
    pair = centred, centred.conj()
    products = jnp.einsum("as...i,bs...j->...aibj", *pair, precision=jax.lax.Precision.HIGHEST)
    rows = values.shape[0] * values.shape[-1]
    cov = products.reshape(*values.shape[2:-1], rows, rows) / count
    return pivot, Moments(jnp.asarray(count, cov.real.dtype), mean, cov, unit)


def _outer(rows: Array) -> Array:
    return rows[..., :, None] * rows[..., None, :].conj()


def side_by_side(mean: Array) -> Array:
    """`[models, *outer, n]` to `[*outer, models * n]`."""
    rows = jnp.moveaxis(mean, 0, -2)
    return rows.reshape(*rows.shape[:-2], -1)


def _by_model(rows: Array, shape: tuple[int, ...]) -> Array:
    """`[*outer, models * n]` to `[models, *outer, n]`."""
    return jnp.moveaxis(rows.reshape(*rows.shape[:-1], shape[0], shape[-1]), -2, 0)


def _variance(cov: Array) -> Array:
    return jnp.diagonal(cov, axis1=-2, axis2=-1).real
