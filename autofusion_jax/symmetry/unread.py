"""Leaves that the program does not read: running statistics of another mode, unused heads, copies."""

import dataclasses
from collections.abc import Sequence, Set

from autofusion_jax.symmetry.spec import LISTED, LeafSpec


def with_unread(leaves: Sequence[LeafSpec], unread: Set[str]) -> tuple[tuple[LeafSpec, ...], list[str]]:
    """Give leaves that are not read the axes of those beside them, and name all in notes.

    No output depends on them, so the program does not say which units they belong to. The nearest module
    around one in which leaves of its shape are read does, if these agree (Haiku's `hidden` and `average`).

    Args:
        leaves: all leaves.
        unread: the paths of those that the program does not read.

    Returns:
        The leaves, and the notes.

    Example:
        >>> from autofusion_jax.symmetry.axes import Axis, Factor, fixed_axis
        >>> units = Axis(((Factor(3, "up"),),), "out")
        >>> leaves = [LeafSpec("norm/average", (units,)), LeafSpec("norm/hidden", (fixed_axis(3),))]
        >>> found, notes = with_unread(leaves, {"norm/hidden"})
        >>> found[1].axes == (units,), notes
        (True, ['not read by apply_fn, units as those of leaves beside them: norm/hidden (norm/average)'])
    """
    read = [leaf for leaf in leaves if leaf.path not in unread]
    found, following, staying = [], [], []
    for leaf in leaves:
        like = _beside(leaf, read) if leaf.path in unread else None
        if like is not None and any(axis.groups for axis in like.axes):
            following.append(f"{leaf.path} ({like.path})")
            leaf = dataclasses.replace(leaf, axes=like.axes)
        elif leaf.path in unread and any(axis.size > 1 for axis in leaf.axes):
            staying.append(leaf.path)
        found.append(leaf)
    notes = {
        "not read by apply_fn, units as those of leaves beside them": following,
        "not read by apply_fn, units in the order in which they are": staying,
    }
    return tuple(found), [f"{what}: {_listed(paths)}" for what, paths in notes.items() if paths]


def _beside(leaf: LeafSpec, read: Sequence[LeafSpec]) -> LeafSpec | None:
    """A read leaf of the same shape in the nearest module around, if all there have the same axes."""
    parts = leaf.path.split("/")
    for depth in range(len(parts) - 1, -1, -1):
        inside = [other for other in read if other.path.split("/")[:depth] == parts[:depth]]
        alike = [other for other in inside if other.shape == leaf.shape]
        if alike:
            return alike[0] if all(other.axes == alike[0].axes for other in alike) else None
    return None


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - LISTED
    return ", ".join(paths[:LISTED]) + (f" and {more} more" if more > 0 else "")
