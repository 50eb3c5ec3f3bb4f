"""DARE: drop entries of the task vectors at random, rescale the rest, merge."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from autofusion_jax.arguments import PositiveShare
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.deltas import map_wide
from autofusion_jax.merging.task_vectors.sparsify import merge_method, merge_pruned
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic
from autofusion_jax.merging.task_vectors.ties import ties
from autofusion_jax.precision import scale_of
from autofusion_jax.types import Params, Scalar


@factory
def dare(
    *,
    density: PositiveShare = 0.5,
    merge: Literal["task_arithmetic", "ties"] | Method = "task_arithmetic",
    variant: Literal["paper", "mergekit"] = "paper",
) -> Method:
    """Merge task vectors `m_k * (params_k - base) / density`, entries of `m_k` 1 with probability `density`.

    Args:
        density: share of entries kept, in (0, 1]: 1 - p with the paper's drop rate p, for which it
            gives no default (0.5 in FusionBench).
        merge: what merges them: `"task_arithmetic"`, `"ties"`, or a method with options of its own,
            such as `methods.ties(density=1.0, variant="mergekit")`.
        variant: `"paper"` (FusionBench alike), or `"mergekit"`, which divides not by the density but
            by what is left of the sum of magnitudes of the leaf.

    Returns:
        A method for any number of networks; needs `base`. `drop_and_rescale` is its formula for
        given masks, as a pure function.

    Raises:
        ValueError: an option is out of its range.

    References:
        Yu, Yu, Yu, Huang, Li: Language models are super Mario: absorbing abilities from homologous
        models as a free lunch, ICML 2024, Eq. 1.
    """
    method = merge_method("dare", merge, {"task_arithmetic": task_arithmetic(), "ties": ties()})

    def run(task: MergeTask, key: Array) -> MergeResult:
        keys = jax.random.split(key, len(task.models))

        def prune(number: int, base: Params, params: Params) -> Params:
            mask = draw_mask(params, density, keys[number])
            return drop_and_rescale(base, params, mask, density, variant=variant)

        return merge_pruned(method, task, key, prune)

    return Method("dare", run, max_models=None, assumes_aligned=True, needs_base=True)


def draw_mask(params: Params, density: Scalar, key: Key[Array, ""]) -> Params:
    """Draw which entries of a network are kept, each with probability `density`.

    Example:
        >>> mask = draw_mask({"w": jnp.zeros((2, 3))}, 0.5, jax.random.key(0))["w"]
        >>> mask.shape, mask.dtype
        ((2, 3), dtype('bool'))
    """
    leaves, tree = jax.tree.flatten(params)
    flat = np.asarray(_draw(key, density, sum(jnp.size(leaf) for leaf in leaves)))
    parts = np.split(flat, np.cumsum([jnp.size(leaf) for leaf in leaves])[:-1])
    return tree.unflatten([jnp.asarray(p.reshape(jnp.shape(v))) for p, v in zip(parts, leaves)])


@functools.partial(jax.jit, static_argnums=2)
def _draw(key: Array, density: float | Array, num: int) -> Array:
    """All at once: random numbers take long to compile, and the shape of every leaf is a program.

    In float32, so that 64 bits, where they are allowed, draw no others.
    """
    return jax.random.bernoulli(key, jnp.asarray(density, jnp.float32), (num,))


def drop_and_rescale(
    base: Params,
    params: Params,
    mask: Params,
    density: Scalar,
    *,
    variant: str = "paper",
) -> Params:
    """`mask * (params - base) / density`, in float32 or wider; every leaf is one program. See `dare`.

    Args:
        base: parameters of the network that was fine-tuned.
        params: parameters of the fine-tuned one.
        mask: for every leaf which entries are kept, 0 or 1.
        density: the share that they were drawn with; vmap-able.
        variant: `"paper"` or `"mergekit"`.

    Returns:
        The pruned task vector, in float32 or wider; leaves that are not floats are the base's.

    Example:
        >>> base, params = {"w": jnp.zeros(3)}, {"w": jnp.arange(3.0)}
        >>> mask = {"w": jnp.array([True, False, True])}
        >>> drop_and_rescale(base, params, mask, 0.5)["w"].tolist()
        [0.0, 0.0, 4.0]
        >>> drop_and_rescale(base, params, mask, 0.5, variant="mergekit")["w"].tolist()
        [0.0, 0.0, 3.0]
    """

    leaf = functools.partial(_drop_leaf, density=density, variant=variant)
    return map_wide(leaf, base, params, mask)


@functools.partial(jax.jit, static_argnames="variant")
def _drop_leaf(origin: Array, value: Array, kept: Array, density: Scalar, variant: str) -> Array:
    delta = value - origin
    # a complex number, of which there are two parts here, is kept or dropped as one
    masked = delta * kept.reshape(*kept.shape, *(1,) * (delta.ndim - kept.ndim))
    if variant == "paper":
        return masked / density
    unit = scale_of(delta)  # sums of magnitudes relative to it neither over- nor underflow
    before, after = jnp.abs(delta / unit).sum(), jnp.abs(masked / unit).sum()
    return masked * jnp.where(after > 0, before / jnp.where(after > 0, after, 1), 1)
