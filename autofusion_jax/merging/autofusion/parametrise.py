"""The learned numbers: one matrix of scores for every group, made soft by Sinkhorn."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import element_shape, soften
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn
from autofusion_jax.types import Perms

START_ODDS = 9.0
"""How much more mass a row has at its place in the start than everywhere else together."""


def init_log_alpha(
    spec: PermSpec, key: Key[Array, ""], *, scale: float, start: Perms | None = None, tau: float = 1.0
) -> dict[str, Array]:
    """Draw initial scores `scale * N(0, 1)`, in the shape of the groups' soft elements.

    Args:
        spec: the permutation spec.
        key: random key.
        scale: standard deviation.
        start: permutations that get `tau log(START_ODDS n)` more, so that Sinkhorn starts near them.
        tau: the temperature of Sinkhorn.
    """
    keys = jax.random.split(key, max(len(spec.groups), 1))
    scores = {
        name: scale * jax.random.normal(k, element_shape(spec, name, soft=True))
        for k, name in zip(keys, spec.groups)
    }
    if start is None:
        return scores
    extra = {name: tau * math.log(START_ODDS * group.size) for name, group in spec.groups.items()}
    return {name: scores[name] + extra[name] * p for name, p in soften(spec, start).items()}


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
