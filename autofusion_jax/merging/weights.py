"""How much each network counts."""

from collections.abc import Sequence

import numpy as np

from autofusion_jax.validation import require


def network_weights(
    caller: str, weights: Sequence[float] | None, num_models: int, *, normalize: bool = True
) -> tuple[float, ...]:
    """One weight for each network, checked.

    Args:
        caller: the method, for messages.
        weights: what the caller gave; None for all the same, which sum to 1.
        num_models: how many networks there are.
        normalize: divide by the sum.

    Raises:
        ValueError: not as many weights as networks, not finite, or a sum of 0 to be divided by.

    Example:
        >>> network_weights("average", [3.0, 1.0], 2)
        (0.75, 0.25)
    """
    values = np.full(num_models, 1 / num_models) if weights is None else np.asarray(weights, np.float64)
    fits = values.shape == (num_models,)
    require(fits, caller, "weights", f"one number for each of the {num_models} networks", weights)
    require(bool(np.isfinite(values).all()), caller, "weights", "finite", weights)
    total = float(values.sum())
    if not normalize:
        return tuple(values.tolist())
    ok = abs(total) > 1e-12 * np.abs(values).max()
    require(ok, caller, "weights", "numbers that do not sum to 0", weights, "Or give normalize=False.")
    return tuple((values / total).tolist())
