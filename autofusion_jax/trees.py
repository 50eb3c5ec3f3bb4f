"""Path-keyed helpers for pytrees of parameters, and the checks that name a leaf."""

import collections
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
    """Flatten a pytree into `{path: leaf}`, in the order of `jax.tree.leaves`.

    Raises:
        ValueError: two leaves have one path, as `"a/b"` beside `{"a": {"b": ...}}`.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {path_str(path): leaf for path, leaf in leaves}
    if len(flat) < len(leaves):
        counts = collections.Counter(path_str(path) for path, _ in leaves)
        twice = counts.most_common(1)[0][0]
        raise ValueError(
            f"params must have one leaf at each path; got {counts[twice]} at {twice!r}, in "
            f"{' and '.join(jax.tree_util.keystr(path) for path, _ in leaves if path_str(path) == twice)}. "
            "Keys are joined by '/': rename one of them."
        )
    return flat


def unflatten_like(tree: Params, leaves: dict[str, Any]) -> Params:
    """Put `leaves`, keyed by path, into the structure of `tree`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_str(path)], tree)


def is_number(leaf: Any) -> bool:
    """Tell whether a leaf is a number or an array of numbers: floats, complex numbers, integers or booleans.

    Example:
        >>> [is_number(leaf) for leaf in (1.5, np.ones(2, bool), jax.random.key(0), "relu", abs)]
        [True, True, False, False, False]
    """
    dtype = None if isinstance(leaf, type) else getattr(leaf, "dtype", None)
    if dtype is None:
        # integers beyond 64 bits are objects to numpy
        return isinstance(leaf, float | complex) or (isinstance(leaf, int) and -(2**63) <= leaf < 2**63)
    return jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)


def is_float(leaf: Any) -> bool:
    """Tell whether a leaf holds floats or complex numbers: what a merge adds up."""
    return is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def in_containers_of(first: Params, other: Params) -> Params:
    """Bring a pytree with the paths of another one into its containers; one with others stays as it is.

    Example:
        >>> in_containers_of({"layers": [1, 2]}, {"layers": {"0": 3, "1": 4}})
        {'layers': [3, 4]}
    """
    if jax.tree.structure(first) == jax.tree.structure(other):
        return other
    leaves = flatten_by_path(other)
    return unflatten_like(first, leaves) if flatten_by_path(first).keys() == leaves.keys() else other


def _describe(leaf: Any) -> str:
    """Type and shape of a leaf in a word; of one that is no array, what it is."""
    if leaf is None:
        return "nothing"
    if is_number(leaf):
        return f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"
    is_array = hasattr(leaf, "dtype") and not isinstance(leaf, type)
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array else a_kind_of(leaf)


def a_kind_of(thing: Any) -> str:
    """An object by its type, for messages: `a dict`, `an int`."""
    name = type(thing).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


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


def check_finite(
    caller: str, name: str, tree: Params, advice: str = "Was the training of this network stable?"
) -> None:
    """Raise ValueError naming the first leaf that holds a NaN or an infinity."""
    for path, leaf in flatten_by_path(tree).items():
        values = np.asarray(leaf)
        if not _is_finite(values):
            bad = int(np.size(values) - np.isfinite(values).sum())
            place = f"[{path!r}]" if path else ""
            raise ValueError(
                f"{caller}: {name}{place} must be finite; got {bad} NaN or infinite "
                f"value(s) of {values.size}. {advice}"
            )


def num_params(tree: Params) -> int:
    """Count the numbers in a pytree of arrays."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))
