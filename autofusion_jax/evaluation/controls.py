"""Controls that a merge must beat to mean anything."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.validation import require


def ridge_head(
    features: Float[Array, "n features"], targets: Float[Array, "n classes"], *, ridge: float = 0.01
) -> tuple[Float[Array, "features classes"], Float[Array, " classes"]]:
    """Fit a linear head to targets by ridge regression, in closed form.

    Solves `argmin_W,b ||F W + b - T||^2 + lambda ||W||^2` with `lambda = ridge` times the mean
    eigenvalue of the centred `F^T F`; the bias is not penalised.

    Args:
        features: what the head reads.
        targets: one-hot labels or probabilities.
        ridge: strength relative to the mean eigenvalue, > 0.

    Returns:
        Kernel and bias of the head.

    Raises:
        ValueError: ridge <= 0.
    """
    require(ridge > 0, "ridge_head", "ridge", "> 0", ridge)
    mean, target_mean = features.mean(0), targets.mean(0)
    centred = features - mean
    gram = centred.T @ centred
    scale = jnp.maximum(jnp.trace(gram) / gram.shape[0], jnp.finfo(gram.dtype).tiny)
    kernel = jnp.linalg.solve(
        gram + ridge * scale * jnp.eye(gram.shape[0]), centred.T @ (targets - target_mean)
    )
    return kernel, target_mean - mean @ kernel
