"""Compiled programs of networks, as many as fit into a bounded cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

T = TypeVar("T")

MAX_NETWORKS = 32
"""Of how many networks' functions a jitted function keeps programs: those that were used last."""


def jit_by_network(*, static_argnames: Sequence[str] = ()) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Jit a function whose first argument says what runs: a network's function, a spec, or what holds one.

    `jax.jit` alone would keep thousands of programs, and with them what the networks' functions hold. A
    process that goes on to make networks (a lambda in a loop, a search over architectures) runs out of memory
    maps, of which each program takes some. Here only the programs of the last `MAX_NETWORKS` are kept.

    Args:
        static_argnames: further arguments that are static, hashable and equal by value like the first.

    Returns:
        A decorator; the first argument is given by position.

    Example:
        >>> @jit_by_network()
        ... def twice(apply_fn, params, x):
        ...     return 2 * apply_fn(params, x)
        >>> twice(lambda params, x: params * x, 3.0, 4.0).item()
        24.0
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.lru_cache(MAX_NETWORKS)
        def program(network: Any) -> Callable[..., T]:
            return jax.jit(functools.partial(function, network), static_argnames=static_argnames)

        @functools.wraps(function)
        def run(network: Any, *args: Any, **options: Any) -> T:
            return program(network)(*args, **options)

        return run

    return decorate
