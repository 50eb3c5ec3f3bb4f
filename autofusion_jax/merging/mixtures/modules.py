"""The modules of a network: leaves that stand together in its parameters."""

from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params


def modules_of(params: Params) -> dict[str, tuple[int, ...]]:
    """Which leaves each module has: those whose paths are the same but for the last name.

    Args:
        params: parameters, any pytree.

    Returns:
        Path of each module, `"."` for the leaves that stand in none -> numbers of its leaves, in the order of
        `jax.tree.leaves`.

    Example:
        >>> modules_of({"dense_0": {"kernel": 1, "bias": 2}, "dense_1": {"kernel": 3}, "scale": 4})
        {'dense_0': (0, 1), 'dense_1': (2,), '.': (3,)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for number, path in enumerate(flatten_by_path(params)):
        module = path.rpartition("/")[0] or "."
        found[module] = (*found.get(module, ()), number)
    return found
