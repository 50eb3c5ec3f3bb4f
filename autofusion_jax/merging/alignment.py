"""Alignment before the merge: bring all networks to A's order of units, then let any method add them up."""

import dataclasses

import jax
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.gradients import explained
from autofusion_jax.merging.method import MergeTask, Method
from autofusion_jax.merging.registry import METHODS, get_method
from autofusion_jax.symmetry.transform import apply_perm, identity_perms
from autofusion_jax.types import Perms
from autofusion_jax.validation import require, unknown_name


def get_aligner(align: str | Method, method: Method) -> Method:
    """The method that aligns the networks before `method` merges them.

    Args:
        align: its name, or itself.
        method: what merges the networks afterwards.

    Raises:
        ValueError: `method` sees to the order of units itself, or `align` does not.
    """
    if isinstance(align, str) and align not in METHODS:
        raise unknown_name("merge", "align", align, METHODS)
    aligner = get_method(align) if isinstance(align, str) else align
    require(
        method.assumes_aligned, "merge", "align", f"None for {method.name}, which needs no aligned networks",
        repr(aligner.name),
    )  # fmt: skip
    require(
        not aligner.assumes_aligned, "merge", "align",
        'a method that finds permutations, such as "weight_matching"', repr(aligner.name),
    )  # fmt: skip
    return aligner


def align_networks(
    aligner: Method, task: MergeTask, key: Key[Array, ""]
) -> tuple[MergeTask, tuple[Perms, ...]]:
    """Permute every network to fit the first one.

    Every network is aligned with the first one alone, once for all repeats.

    Args:
        aligner: finds the permutations of the second of two networks.
        task: the networks; `base`, if there is one, is in the first one's order of units.
        key: shared out to the networks.

    Returns:
        The task with permuted networks, and the permutations of each.

    Raises:
        ValueError: `aligner` finds no permutations.
    """
    spec = task.require_perm_spec()
    first, *others = task.models
    perms, models = [identity_perms(spec)], [first]
    for other, own_key in zip(others, jax.random.split(key, len(others))):
        with explained(aligner.name):
            found = aligner.run(dataclasses.replace(task, models=(first, other)), own_key)
        require(
            bool(found.perms), "merge", "align",
            'a method that finds permutations, such as "weight_matching"', repr(aligner.name),
        )  # fmt: skip
        perms.append(dict(found.perms))
        models.append(apply_perm(spec, other, found.perms))
    return dataclasses.replace(task, models=tuple(models)), tuple(perms)
