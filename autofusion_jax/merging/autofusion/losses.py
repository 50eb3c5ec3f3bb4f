"""AutoFusion's two objectives and how they are balanced (Eq. 16, 20-22)."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.precision import widened
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, is_float
from autofusion_jax.types import Params

Strategy = Literal["normalized", "weighted", "rounded", "align", "retain"]
RELATIVE = ("normalized", "align")
"""Strategies under which the size of `L_align` does not matter."""

LayerWeighting = Literal["linear", "uniform"]


def layer_weights(num_layers: int, weighting: LayerWeighting) -> list[float]:
    """The weights omega(l) of Eq. 16: `2 L / l` for l = 1..L ("linear"), or 1 ("uniform").

    Example:
        >>> layer_weights(4, "linear")
        [8.0, 4.0, 2.6666666666666665, 2.0]
    """
    if weighting == "uniform":
        return [1.0] * num_layers
    return [2.0 * num_layers / layer for layer in range(1, num_layers + 1)]


def align_loss(
    spec: PermSpec,
    params_a: Params,
    permuted_b: Params,
    weights: Sequence[float],
    unit: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """`L_align = 1/L sum_l omega(l) ||W_A^l - P_l W_B^l P_{l-1}^T||^2` (Eq. 16).

    A layer's W holds all of its leaves, biases included; of complex ones, real and imaginary parts.

    Args:
        spec: gives the layers in the order of the forward pass.
        params_a: parameters of A.
        permuted_b: parameters of B after its permutations.
        weights: omega(l), one per layer.
        unit: the loss is in units of its square, so that it neither over- nor underflows.
    """
    a, b = flatten_by_path(params_a), flatten_by_path(permuted_b)
    omega = dict(zip(spec.layers, weights, strict=True))

    def distance(path: str) -> Array:
        return jnp.sum((widened(a[path]) / unit - widened(b[path]) / unit) ** 2)

    distances = [omega[leaf.layer] * distance(leaf.path) for leaf in spec.leaves if is_float(a[leaf.path])]
    return sum(distances, start=jnp.zeros(())) / len(spec.layers)


def balance(
    align: Float[Array, ""],
    retain: Float[Array, ""],
    *,
    strategy: Strategy,
    omega_a: float,
    omega_r: float,
    switch_every: int,
    epoch: Array,
) -> Float[Array, ""]:
    """Combine the two losses: `omega_a L_align + omega_r L_retain` (Eq. 22).

    Args:
        align: L_align.
        retain: L_retain.
        strategy: `"normalized"`: each divided by its own value, gradient stopped (0 stays 0);
            `"weighted"`: by omega_a and omega_r; `"rounded"`: one at a time, switching every
            `switch_every` epochs, align first; `"align"`, `"retain"`: that one alone.
        omega_a: weight of L_align under `"weighted"`.
        omega_r: weight of L_retain under `"weighted"`.
        switch_every: epochs between switches under `"rounded"`.
        epoch: the present epoch, from 0.
    """
    if strategy == "normalized":
        return _over_itself(align) + _over_itself(retain)
    if strategy == "weighted":
        return omega_a * align + omega_r * retain
    if strategy == "rounded":
        return jnp.where((epoch // switch_every) % 2 == 0, align, retain)
    return {"align": align, "retain": retain}[strategy]


def _over_itself(loss: Float[Array, ""]) -> Float[Array, ""]:
    value = jax.lax.stop_gradient(loss)
    return jnp.where(value > 0, loss / jnp.where(value > 0, value, 1.0), 0.0)
