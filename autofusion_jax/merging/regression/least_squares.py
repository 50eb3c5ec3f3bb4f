"""Ridge regression of what a layer should make on what it reads, from moments of both."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array
from jaxtyping import Inexact

from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.unit_features import BATCH_SIZE
from autofusion_jax.symmetry.moments import Moments
from autofusion_jax.validation import require

MAX_NUMBERS = 2**25
"""How many numbers of a batch are held at once: what the layers read and what they should make."""


class Fit(NamedTuple):
    """The solution of one layer.

    Attributes:
        kernel: `[B, C, F]`.
        bias: `[B, F]`; 0 for a layer without one.
        gram: `E[z^H z] + lambda I`, `[B, C, C]`, in the square of the moments' unit.
        before: mean square of `y`, over samples and all that is made.
        after: mean square of `z W + b - y`.
    """

    kernel: Inexact[np.ndarray, "B C F"]
    bias: Inexact[np.ndarray, "B F"]
    gram: Inexact[np.ndarray, "B C C"]
    before: float
    after: float


def samples_of(read: Inexact[Array, "S B C"], wanted: Inexact[Array, "S B F"]) -> Inexact[Array, "1 S B CF"]:
    """What a layer reads and what it should make, side by side: for `stream_moments`, with one outer axis."""
    return jnp.concatenate([read, wanted], axis=-1)[None]


def ridge_regression(
    moments: Moments, num_read: int, *, centred: bool, ridge: float, real: bool = True
) -> Fit:
    r"""Solve `argmin_{W, b} E |z W + b - y|^2 + lambda |W|^2` for each of B products.

    `W = (E[z^H z] + lambda I)^-1 E[z^H y]` for rows z and y, and `b = E[y] - E[z] W`, moments about the
    mean where there is a bias; `lambda` is `ridge` times the mean eigenvalue of `E[z^H z]`.

    Args:
        moments: those of `(z, y)` as from `samples_of`, in any unit.
        num_read: C, the size of z.
        centred: whether there is a bias.
        ridge: > 0.
        real: whether the weights are real. Where z and y are complex, the real parts of both moments
            then give the minimum over real weights.
    """
    second = np.asarray(moments.cov if centred else moments.second_moment()).conj()  # E[z_i^* z_j]
    second = _double(np.real(second) if real else second)
    mean_z, mean_y = np.split(_double(np.asarray(moments.mean[0])), [num_read], axis=-1)
    gram, cross = second[:, :num_read, :num_read], second[:, :num_read, num_read:]  # z^H z, z^H y
    scale = np.trace(gram, axis1=-2, axis2=-1).real / num_read
    damping = ridge * np.where(scale > 0, scale, 1)[:, None, None] * np.eye(num_read)
    damped = gram + damping
    require(
        bool(np.isfinite(damped).all() and np.isfinite(cross).all()), "ridge_regression",
        "products of the networks' activations", "finite", "an infinity", "Give smaller inputs or networks.",
    )  # fmt: skip
    pairs = zip(damped, cross)
    kernel = np.stack([scipy.linalg.solve(left, right, assume_a="pos") for left, right in pairs])
    bias = mean_y - np.einsum("bc,bcf->bf", mean_z, kernel) if centred else np.zeros_like(mean_y)
    before = np.trace(second[:, num_read:, num_read:], axis1=-2, axis2=-1).real.sum()
    after = before - 2 * np.vdot(kernel, cross).real + np.vdot(kernel, gram @ kernel).real
    before += np.sum(np.abs(mean_y) ** 2) if centred else 0.0
    unit = float(moments.unit)
    errors = [float(error / mean_y.size) * unit**2 for error in (before, max(after, 0.0))]
    return Fit(kernel, unit * bias, damped, *errors)


def _double(values: np.ndarray) -> np.ndarray:
    return values.astype(np.result_type(values.dtype, np.float64))


def as_leaves(linear: LinearLayers, layer: LinearLayer, fit: Fit) -> dict[str, Array]:
    """Path -> leaf: the weight, and the bias where there is one, that do what a fit says."""
    leaves = {layer.weight: linear.weight(layer, jnp.asarray(fit.kernel))}
    if layer.bias is not None:
        leaves[layer.bias.leaf] = linear.shift(layer, jnp.asarray(fit.bias))
    return leaves


def in_batches(x: Array, numbers_per_input: int) -> list[Array]:
    """Cut inputs so that no batch needs more than `MAX_NUMBERS`."""
    size = min(max(MAX_NUMBERS // max(numbers_per_input, 1), 1), BATCH_SIZE)
    return [x[start : start + size] for start in range(0, len(x), size)]


def numbers_per_input(layers: Sequence[LinearLayer], num_inputs: int) -> list[int]:
    """How many numbers each layer reads and makes for one input.

    Args:
        layers: layers of a program that was traced with `num_inputs` inputs.
        num_inputs: its inputs.
    """
    return [layer.product.num_samples * (b * (c + f)) // num_inputs
            for layer in layers for b, c, f in [layer.product.sizes]]  # fmt: skip
