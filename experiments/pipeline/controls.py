"""Controls that a merge must beat to mean anything, and references with real labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key, Num

from autofusion_jax.merging.corrections.reset_norm import reset_norm
from autofusion_jax.merging.distillation import DistilOptions, distil, training_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, num_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from pipeline.lora import Adapted, init_adapters, with_adapters


def ridge_head(
    features: Float[Array, "n features"], targets: Float[Array, "n classes"], *, ridge: float = 0.01
) -> tuple[Float[Array, "features classes"], Float[Array, " classes"]]:
    """Fit a linear head to targets by ridge regression, in closed form.

    Solves `argmin_W,b ||F W + b - T||^2 + lambda ||W||^2` with `lambda = ridge` times the mean
    eigenvalue of the centred `F^T F`; the bias is not penalised. `least_squares.ridge_regression` solves
    the same from moments, in float64: kernels differ by 1e-4, and stored results are of this one.

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


def tune_adapters(
    spec: PermSpec,
    params: Params,
    x: Num[Array, "N ..."],
    probs: Float[Array, "N classes"],
    options: DistilOptions,
    *,
    rank: int = 4,
    key: Key[Array, ""],
) -> tuple[Params, np.ndarray, int]:
    """Fine-tune a network through low-rank adapters alone, and add them to its kernels.

    Args:
        spec: a spec that carries an `apply_fn`.
        params: where to start.
        x: inputs.
        probs: target distributions.
        options: how to train.
        rank: of the adapters, >= 1.
        key: decides adapters, batches and augmentation.

    Returns:
        The parameters, the mean loss of each epoch, and how many numbers were learned.

    Raises:
        ValueError: an option is out of its range, or a loss is NaN or infinite.
    """
    init_key, train_key = jax.random.split(key)
    network, statistics = training_network(spec, params, x)
    start = {"base": params, "adapters": init_adapters(params, rank=rank, key=init_key)}
    base = [path for path in flatten_by_path(start) if path.startswith("base/")]
    found, losses = distil(Adapted(network), start, x, probs, options, key=train_key, frozen=base)
    tuned = with_adapters(params, found["adapters"])
    tuned = reset_norm(spec, tuned, x)[0] if statistics else tuned
    return tuned, losses, num_params(found["adapters"])
