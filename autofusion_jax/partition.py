"""Partition of a network into leaves that are numbers and others: random keys, words, functions."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from autofusion_jax.trees import a_kind_of, is_number, path_str
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require


@dataclasses.dataclass(frozen=True, eq=False)
class Rest:
    """What is left of a network without its numbers: the structure, and the leaves that are none.

    Hashable and equal by value (random keys by their bits, arrays of words by theirs, anything else by
    its own equality), so that a function bound to it can be a static argument of `jax.jit`.

    Attributes:
        tree: the structure of the whole network; None if all its leaves are numbers.
        leaves: the leaves that are no numbers, by their place among all leaves.
        paths: their paths.
    """

    tree: Any = None
    leaves: tuple[tuple[int, Any], ...] = ()
    paths: tuple[str, ...] = ()

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return self.tree, tuple((place, _static(leaf)) for place, leaf in self.leaves)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rest) and self._key == other._key

    def join(self, numbers: Params) -> Params:
        """The whole network of these numbers."""
        if not self.leaves:
            return numbers
        leaves = jax.tree.leaves(numbers)
        for place, leaf in self.leaves:  # in ascending order, so that each place is one in the whole
            leaves.insert(place, leaf)
        return self.tree.unflatten(leaves)

    def bind(self, apply_fn: ApplyFn) -> ApplyFn:
        """The function of the numbers alone; `apply_fn` itself where all leaves are numbers."""
        return _Bound(apply_fn, self) if self.leaves else apply_fn

    def around(self, change: Callable[[Params], Params]) -> Callable[[Params], Params]:
        """What a change of whole networks does to the numbers; itself where all leaves are numbers."""
        return _Around(change, self) if self.leaves else change


@dataclasses.dataclass(frozen=True)
class _Around:
    change: Callable[[Params], Params]
    rest: Rest

    def __call__(self, numbers: Params) -> Params:
        return split(self.change(self.rest.join(numbers)))[0]


@dataclasses.dataclass(frozen=True)
class _Bound:
    apply_fn: ApplyFn
    rest: Rest

    def __call__(self, numbers: Params, x: Any) -> Any:
        return self.apply_fn(self.rest.join(numbers), x)


def split(params: Params) -> tuple[Params, Rest]:
    """Take a network apart: numbers, with None where a leaf is none, and the rest.

    Example:
        >>> numbers, rest = split({"w": 1.0, "act": "relu"})
        >>> numbers, rest.paths, rest.join({"w": 2.0, "act": None})
        ({'act': None, 'w': 1.0}, ('act',), {'act': 'relu', 'w': 2.0})
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    others = [(place, path, leaf) for place, (path, leaf) in enumerate(flat) if not is_number(leaf)]
    if not others and not any(map(_is_long, jax.tree.leaves(params))):
        return params, Rest()
    numbers = tree.unflatten([_number(leaf) for _, leaf in flat])
    if not others:
        return numbers, Rest()
    leaves = tuple((place, _stand_in(leaf)) for place, _, leaf in others)
    return numbers, Rest(tree, leaves, tuple(path_str(path) for _, path, _ in others))


def warn_of_others(names: Iterable[str], rests: Sequence[Rest]) -> None:
    """Warn where networks hold other words or functions than the first one, whose own are used for all.

    Random keys may differ: they are the state of a generator, and no part of what a network computes.

    Args:
        names: what the caller calls the networks.
        rests: what is left of each without its numbers, the first network's first.
    """
    first, *others = (_words(rest) for rest in rests)
    for name, words in zip(list(names)[1:], others):
        differing = [path for path in first if words.get(path, first[path]) != first[path]]
        if differing:
            warnings.warn(
                f"merge: {name} has another leaf that is no number at {differing[0]!r} than params_a, whose "
                "own is used for all networks. Do they compute the same function?",
                stacklevel=2,
            )


def _words(rest: Rest) -> dict[str, Any]:
    """The leaves that are no numbers by path, without random keys."""
    return {
        path: _static(leaf)
        for path, (_, leaf) in zip(rest.paths, rest.leaves)
        if not isinstance(leaf, jax.Array)
    }


def _is_long(leaf: Any) -> bool:
    return isinstance(leaf, int) and not -(2**31) <= leaf < 2**31


def _number(leaf: Any) -> Any:
    """The leaf, or None for what is no number; integers that are too long for JAX as arrays of numpy."""
    if not is_number(leaf):
        return None
    return np.asarray(leaf) if _is_long(leaf) else leaf


def _stand_in(leaf: Any) -> Any:
    """The leaf; for the shape of random keys, keys: a function bound to it must be traceable."""
    is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
    return jax.lax.full(leaf.shape, 0, leaf.dtype) if is_shape else leaf


def _static(leaf: Any) -> Any:
    """What stands for a leaf in comparisons: hashable, and equal where the leaf is."""
    if isinstance(leaf, Tracer):
        return id(leaf)  # kept alive by the `Rest` that it is compared in
    if isinstance(leaf, jax.Array):  # random keys
        with jax.ensure_compile_time_eval():  # the bits are asked for while functions are traced
            bits = np.asarray(jax.random.key_data(leaf))
        return str(leaf.dtype), bits.shape, bits.tobytes()
    if isinstance(leaf, np.ndarray):
        return str(leaf.dtype), leaf.shape, tuple(map(_static, leaf.ravel().tolist()))
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf


def check_has_numbers(caller: str, name: str, params: Params) -> None:
    """Raise ValueError for a network without a single number: a module of no parameters, a path, a function.

    Args:
        caller: the public function that is checking, for the message.
        name: what it calls the network.
        params: what it was given.
    """
    leaves = jax.tree.leaves(params)
    require(
        not leaves or any(map(is_number, leaves)), caller, name, "a pytree of arrays",
        a_kind_of(leaves[0] if leaves else params),
        "Give the parameters: what `init` or `nnx.split` returned, or `load(path).params`.",
    )  # fmt: skip


def check_apply_fn(caller: str, apply_fn: Any) -> None:
    """Raise ValueError for a module, or whatever else is no function `(params, x) -> outputs`; says what is.

    Args:
        caller: the public function that is checking, for the message.
        apply_fn: what it was given.
    """
    holds_arrays = any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(apply_fn))
    bound = isinstance(apply_fn, functools.partial)  # tree_util.Partial may hold arrays
    if hasattr(apply_fn, "init") and hasattr(apply_fn, "apply"):
        advice = "Give its `apply`, such as `model.apply`, and as params what `init` returned."
    elif holds_arrays and not bound:
        advice = "Give `lambda m, x: m(x)`, and the module, which holds its parameters, as params."
    elif not callable(apply_fn):
        advice = ""
    else:
        return
    got = a_kind_of(apply_fn)
    raise ValueError(
        f"{caller}: apply_fn must be a function (params, x) -> outputs; got {got}. {advice}".rstrip()
    )
