"""The learned numbers: one matrix of scores for every group, made soft by Sinkhorn."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import element_shape
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn


def init_log_alpha(spec: PermSpec, key: Key[Array, ""], *, scale: float) -> dict[str, Array]:
    """Draw initial scores `scale * N(0, 1)`, in the shape of the groups' soft elements."""
    keys = jax.random.split(key, max(len(spec.groups), 1))
    return {
        name: scale * jax.random.normal(k, element_shape(spec, name, soft=True))
        for k, name in zip(keys, spec.groups)
    }


def log_soft_perms(
    log_alpha: dict[str, Array], *, tau: float, num_iters: int, implicit: bool = False
) -> dict[str, Array]:
    """Apply `log_sinkhorn` to every group; groups of one shape go through it in one batch.

    Args:
        log_alpha: group name -> scores `[..., n, n]`.
        tau: temperature, > 0.
        num_iters: Sinkhorn iterations, >= 1.
        implicit: see `log_sinkhorn`.

    Returns:
        group name -> log of the soft permutation, in the order of `log_alpha`.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, scores in log_alpha.items():
        by_shape.setdefault(scores.shape, []).append(name)
    out: dict[str, Array] = {}
    for names in by_shape.values():
        stacked = jnp.stack([log_alpha[name] for name in names])
        done = log_sinkhorn(stacked, tau=tau, num_iters=num_iters, implicit=implicit)
        out.update(zip(names, done))
    return {name: out[name] for name in log_alpha}


def round_perms(log_soft: dict[str, Array]) -> dict[str, Array]:
    """Round soft permutations to the hard ones nearest in the likelihood `sum_i log P[i, perm[i]]`.

    Because Sinkhorn adds one number per row and one per column to the scores, and every
    permutation meets each of them once, this is also the assignment that the scores
    themselves maximise: the limit tau -> 0.
    """
    return {name: solve_assignment(scores) for name, scores in log_soft.items()}
