"""Gradients through networks that have none: the error that says so."""

import contextlib
from collections.abc import Iterator

NO_GRADIENT = "Reverse-mode differentiation does not work"
"""How JAX begins its message about while loops."""

WITHOUT_GRADIENTS = ("weight_matching", "activation_matching", "zipit", "pleas", "prune_concat", "average")


@contextlib.contextmanager
def explained(method: str) -> Iterator[None]:
    """Within it, a while loop on the way of a gradient is an error that names the method and others.

    Args:
        method: name of the method that runs.

    Raises:
        ValueError: the method takes gradients, and the network has a while loop.
    """
    try:
        yield
    except ValueError as error:
        if NO_GRADIENT not in str(error):
            raise
        raise ValueError(
            f"{method}: this method takes gradients, so the network must be differentiable backwards; it has "
            "a while loop (lax.while_loop, or lax.fori_loop with bounds that are not fixed). Write the loop "
            "as lax.scan, or take a method without gradients, such as "
            f"{', '.join(map(repr, WITHOUT_GRADIENTS))}."
        ) from error
