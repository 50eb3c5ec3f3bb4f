"""Path-keyed helpers for pytrees of parameters, and the checks that name a leaf."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.types import Params


def path_str(path: tuple[Any, ...]) -> str:
    """Write a key path of `jax.tree_util` as `params/conv_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def natural_key(name: str) -> list[Any]:
    """Sort key under which `dense_2` comes before `dense_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def flatten_by_path(tree: Params) -> dict[str, Any]:
    """Flatten a pytree into `{path: leaf}`, in the order of `jax.tree.leaves`."""
    return {path_str(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten_like(tree: Params, leaves: dict[str, Any]) -> Params:
    """Put `leaves`, keyed by path, into the structure of `tree`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_str(path)], tree)


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"


def _alike(left: Any, right: Any) -> bool:
    """Tell whether two leaves are arrays of one dtype and shape."""
    dtype = getattr(left, "dtype", None)
    return dtype is not None and dtype == getattr(right, "dtype", None) and left.shape == right.shape


def check_same_structure(
    caller: str, names: tuple[str, str], first: Params, second: Params, advice: str = ""
) -> None:
    """Raise ValueError at the first path where two pytrees differ in structure, shape or dtype.

    Args:
        caller: the public function that is checking, for the message.
        names: what the caller calls the two trees.
        first: the reference tree.
        second: the tree that must agree with it.
        advice: what to do where it does not.

    Raises:
        ValueError: naming the first path that differs and what stands there in each tree.
    """
    (leaves, tree), (others, other_tree) = jax.tree.flatten(first), jax.tree.flatten(second)
    if tree == other_tree and all(map(_alike, leaves, others)):
        return
    left, right = flatten_by_path(first), flatten_by_path(second)
    for path in [*left, *(p for p in right if p not in left)]:
        here, there = _describe(left.get(path)), _describe(right.get(path))
        if here != there:
            raise ValueError(
                f"{caller}: {names[1]}[{path!r}] must be {here} as in {names[0]}; got {there}. "
                f"Networks must have one architecture and one dtype. {advice}".rstrip()
            )


def _is_finite(values: np.ndarray) -> bool:
    """Tell whether an array is finite: its sum shows a NaN or infinity, unless it overflows itself."""
    if not jnp.issubdtype(values.dtype, jnp.inexact):
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def all_finite(tree: Params) -> bool:
    """Tell whether no leaf holds a NaN or an infinity."""
    return all(_is_finite(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))


def check_finite(caller: str, name: str, tree: Params) -> None:
    """Raise ValueError naming the first leaf that holds a NaN or an infinity."""
    for path, leaf in flatten_by_path(tree).items():
        values = np.asarray(leaf)
        if not _is_finite(values):
            bad = int(np.size(values) - np.isfinite(values).sum())
            raise ValueError(
                f"{caller}: {name}[{path!r}] must be finite; got {bad} NaN or infinite "
                f"value(s) of {values.size}. Was the training of this network stable?"
            )


def num_params(tree: Params) -> int:
    """Count the numbers in a pytree of arrays."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))
