"""Exact Pareto search: how to weigh tasks so that their losses come to stand as a preference says."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

BALANCED = 1e-4
"""Losses stand as the preference says if their divergence from it is no larger."""

ROUNDING = 1e-5
"""A direction that is no longer, as a share of what it is made of, is taken for a rounding error."""

STEPS = 1000
"""Steps of the primal-dual method in `simplex_program`."""


def task_weights(
    losses: Float[Array, " tasks"], products: Float[Array, "tasks tasks"], preference: Float[Array, " tasks"]
) -> Float[Array, " tasks"]:
    """Weigh tasks so that a step along their gradients brings all `preference[t] * losses[t]` together.

    With `l = preference * losses`, `p = l / sum(l)`, `mu = sum_t p_t log(T p_t)` and the direction
    `a_t = preference_t (log(T p_t) - mu)`, alpha is on the simplex, C the products of the gradients, and

    - where `mu > BALANCED`, alpha maximises `alpha . (C a)`; the largest of l may not rise, `C alpha >= 0`,
      nor any that a would raise by more than that, `C alpha >= C a`; if a lowers none, none may rise;
    - elsewhere alpha maximises `sum(C alpha)`; none may rise, and `alpha . (C a) >= min(max(C a), 0)`.

    Args:
        losses: of the tasks, >= 0.
        products: `<grad l_s, grad l_t>`.
        preference: how much each task counts, > 0: the losses of an exact solution are inverse to it.

    References:
        Mahapatra, Rajan: Multi-task learning with user preferences: gradient descent with controlled
        ascent in Pareto optimization, ICML 2020, Algorithm 1.

    Example:
        >>> task_weights(jnp.array([4.0, 1.0]), jnp.eye(2), jnp.array([0.5, 0.5])).round(2).tolist()
        [1.0, 0.0]
    """
    weighted = preference * losses
    share = weighted / jnp.maximum(weighted.sum(), 1e-12)
    logs = jnp.log(jnp.maximum(share * len(losses), 1e-12))
    divergence = (share * logs).sum()
    pull = products @ (preference * (logs - divergence))

    falls, worst = pull > 0, weighted >= weighted.max()
    may_rise = jnp.where(worst | ~falls.any(), 0.0, pull)  # as fast as balance asks for, where it does
    balance = (pull, jnp.append(may_rise, 0.0), jnp.append(~falls | worst | ~falls.any(), False))
    limits = jnp.zeros(len(losses) + 1).at[-1].set(jnp.minimum(pull.max(), 0.0))
    pulls = jnp.linalg.norm(pull) > ROUNDING * jnp.linalg.norm(products)
    descent = (products.sum(0), limits, jnp.append(jnp.ones(len(losses), bool), pulls))
    gain, bounds, watched = (
        jnp.where(divergence > BALANCED, one, other) for one, other in zip(balance, descent)
    )
    return simplex_program(gain, jnp.concatenate([products, pull[None]]), bounds, watched)


def simplex_program(
    gain: Float[Array, " tasks"],
    rows: Float[Array, "rules tasks"],
    bounds: Float[Array, " rules"],
    watched: Bool[Array, " rules"],
) -> Float[Array, " tasks"]:
    """Maximise `gain . w` over the simplex under `rows @ w >= bounds`, by `STEPS` primal-dual steps.

    The primal-dual hybrid gradient method on rules brought to length 1; the mean of the second half of its
    steps is a point of the simplex that keeps the rules and reaches the maximum up to about 1e-2
    of their length.

    Args:
        gain: what is maximised.
        rows: the rules.
        bounds: theirs.
        watched: which rules count.

    References:
        Chambolle, Pock: A first-order primal-dual algorithm for convex problems with applications to
        imaging, Journal of Mathematical Imaging and Vision 2011.

    Example:
        >>> rows, watched = jnp.array([[0.0, 1.0]]), jnp.array([True])  # w_1 >= 1/4
        >>> simplex_program(jnp.array([1.0, 0.0]), rows, jnp.array([0.25]), watched).round(2).tolist()
        [0.75, 0.25]
    """
    lengths = jnp.where(watched, jnp.maximum(jnp.linalg.norm(rows, axis=1), 1e-12), 1.0)
    rules, limits = jnp.where(watched[:, None], rows, 0.0) / lengths[:, None], bounds / lengths
    limits = jnp.where(watched, limits, -1.0)
    target = gain / jnp.maximum(jnp.linalg.norm(gain), 1e-12)
    size = 0.9 / jnp.maximum(jnp.linalg.norm(rules), 1.0)
    start = jnp.full(gain.shape, 1 / len(gain))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        weights, prices = state
        new = _on_simplex(weights + size * (target + rules.T @ prices))
        prices = jnp.maximum(prices + size * (limits - rules @ (2 * new - weights)), 0.0)
        return (new, prices), new

    _, path = jax.lax.scan(step, (start, jnp.zeros(len(bounds))), length=STEPS)
    return path[STEPS // 2 :].mean(0)


def _on_simplex(point: Float[Array, " n"]) -> Float[Array, " n"]:
    """The nearest point whose entries are not below 0 and add up to 1."""
    falling = jnp.sort(point)[::-1]
    excess = (jnp.cumsum(falling) - 1) / jnp.arange(1, len(point) + 1)
    last = jnp.sum(falling > excess) - 1
    return jnp.maximum(point - excess[last], 0.0)
