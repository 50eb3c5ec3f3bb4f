"""Test-time adaptation: making a network surer of its answers on unlabelled inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.types import Params
from autofusion_jax.validation import require


def minimise_entropy(
    logits: Callable[[Params, Array], Array],
    start: Params,
    data: tuple[Array, ...],
    key: Key[Array, ""],
    *,
    learning_rate: float,
    num_steps: int,
    batch_size: int,
) -> tuple[Params, Float[Array, " steps"]]:
    """Minimise the entropy of predictions by Adam, in one scan; to be called under jit.

    Args:
        logits: makes logits of what is learned, any pytree, and of inputs.
        start: where it starts.
        data: inputs `[N, ...]`, one array or more; every step draws a batch of each and adds the
            entropies up.
        key: decides the batches.
        learning_rate: of Adam.
        num_steps: how many steps it takes.
        batch_size: inputs in a batch; all of them in every step, where there are no more.

    Returns:
        What was learned, and the entropy before each step.
    """
    optimizer = optax.adam(learning_rate)

    def objective(learned: Params, batches: list[Array]) -> Array:
        return sum((mean_entropy(logits(learned, x)) for x in batches), jnp.zeros(()))

    def step(state: tuple[Params, optax.OptState], key: Array):
        learned, opt_state = state
        keys = jax.random.split(key, len(data))
        batches = [_draw(k, x, batch_size) for k, x in zip(keys, data)]
        loss, grads = jax.value_and_grad(objective)(learned, batches)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(learned, updates), opt_state), loss

    keys = jax.random.split(key, num_steps)
    (learned, _), losses = jax.lax.scan(step, (start, optimizer.init(start)), keys)
    return learned, losses


def mean_entropy(logits: Float[Array, "*batch classes"]) -> Float[Array, ""]:
    """`-sum_c p_c log(p_c + 1e-8)`, the mean over all predictions, in nats.

    Example:
        >>> round(float(mean_entropy(jnp.zeros((3, 4)))), 3)  # log 4
        1.386
    """
    probs = jax.nn.softmax(logits)
    return -(probs * jnp.log(probs + 1e-8)).sum(-1).mean()


def check_entropy(caller: str, entropy: Float[Array, " steps"]) -> None:
    """Raise ValueError naming the first step whose entropy is not finite."""
    values = np.asarray(entropy)
    first = int(np.argmin(np.isfinite(values)))
    got = f"{values[first]} in step {first}"
    require(bool(np.isfinite(values).all()), caller, "the entropy", "finite", got, "Lower the learning rate.")


def _draw(key: Key[Array, ""], x: Array, size: int) -> Array:
    return x if size >= len(x) else jax.random.choice(key, x, (size,), replace=False)
