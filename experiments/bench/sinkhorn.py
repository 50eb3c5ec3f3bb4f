"""Sinkhorn with its gradient, against the same iterations in the log domain alone.

    python experiments/bench/sinkhorn.py

Six 512 x 512 matrices, the hidden axes of `mnist_mlp`, 20 iterations; the least of several calls.
"""

import time

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from rich.console import Console

from autofusion_jax.transport.sinkhorn import log_sinkhorn

GROUPS, UNITS, ITERATIONS, CALLS = 6, 512, 20, 10


def in_log_domain(scores: Array, *, tau: float, num_iters: int) -> Array:
    """Eq. 13 with a logsumexp for every row and column of every iteration, rematerialised."""
    scores = scores / tau

    @jax.checkpoint
    def step(potentials: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        f = -logsumexp(scores + potentials[1][None, :], axis=1)
        return (f, -logsumexp(scores + f[:, None], axis=0)), None

    start = jnp.zeros_like(scores[0])
    (f, g), _ = jax.lax.scan(step, (start, start), length=num_iters)
    return scores + f[:, None] + g[None, :]


def main() -> None:
    keys = jax.random.split(jax.random.key(0), 2 * GROUPS)
    scores = [8 * jax.random.normal(key, (UNITS, UNITS)) for key in keys[:GROUPS]]
    weights = [jax.random.normal(key, (UNITS, UNITS)) for key in keys[GROUPS:]]
    milliseconds, gradients = {}, {}
    for operator in (in_log_domain, log_sinkhorn):

        def loss(scores: list[Array], operator=operator) -> Array:
            soft = [jnp.exp(operator(x, tau=1.0, num_iters=ITERATIONS)) for x in scores]
            return sum((jnp.vdot(w, p) for w, p in zip(weights, soft)), start=jnp.zeros(()))

        gradient = jax.jit(jax.grad(loss))
        gradients[operator] = jax.block_until_ready(gradient(scores))
        seconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            jax.block_until_ready(gradient(scores))
            seconds.append(time.perf_counter() - start)
        milliseconds[operator] = 1e3 * min(seconds)
    plain, ours = milliseconds[in_log_domain], milliseconds[log_sinkhorn]
    largest = max(float(jnp.abs(g).max()) for g in gradients[in_log_domain])
    apart = max(
        float(jnp.abs(a - b).max()) for a, b in zip(gradients[in_log_domain], gradients[log_sinkhorn])
    )
    console = Console()
    console.print(f"on {jax.default_backend()}: log domain alone {plain:.0f} ms, ours {ours:.0f} ms")
    console.print(f"{plain / ours:.1f} x; gradients differ by {apart / largest:.1e} of the largest entry")


if __name__ == "__main__":
    main()
