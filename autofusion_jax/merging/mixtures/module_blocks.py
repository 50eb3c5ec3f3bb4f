"""Blocks of a traced network: leaves found by their paths, and the function of what they read.

A block is named by its leaves alone. What it reads is the nearest value of the program on all ways
from the inputs to its leaves (a dominator), what it makes the nearest one on all ways from them to
the outputs (a post-dominator): whatever else the block holds, nothing of it is used beside that.
"""

import dataclasses
import graphlib
import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax import Array

from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, given
from autofusion_jax.trees import flatten_by_path, natural_key, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

PLACE = "{}"
"""Stands in a pattern for the number or name of a block."""

MLP_BLOCKS = "*block_{}/mlp_*"
"""The MLP of every block of a transformer."""

WHOLE_BLOCKS = "*block_{}/*"
"""Every block of a transformer, or of whatever is built of `block_0`, `block_1`, ..."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a program.

    Attributes:
        name: what stands in the place of `{}` in its paths.
        paths: paths of its leaves.
        read: number of the value that it reads.
        made: number of the value that it makes.
        read_like: shape and dtype of what it reads.
        made_like: shape and dtype of what it makes.
    """

    name: str
    paths: tuple[str, ...]
    read: int
    made: int
    read_like: jax.ShapeDtypeStruct
    made_like: jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class BlockProgram:
    """A traced network and its blocks, in the order of their names.

    Attributes:
        program: the network's equations.
        blocks: its blocks.
        outputs: the structure of its outputs.
    """

    program: FlatProgram
    blocks: tuple[Block, ...]
    outputs: Any

    def values(self, leaves: Mapping[str, Array], x: Array) -> dict[int, Any]:
        """The values of some leaves and of the inputs, by their numbers."""
        known = {self.program.leaves[path]: leaf for path, leaf in leaves.items()}
        return known | dict(zip(self.program.inputs, jax.tree.leaves(x)))

    def run_block(self, block: Block, leaves: Mapping[str, Array], read: Array) -> Array:
        """What a block makes of a value, with the leaves given."""
        values = {self.program.leaves[path]: leaf for path, leaf in leaves.items()}
        return self.program.evaluate([block.made], values, given({block.read: read}))[0]


def path_regex(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern, with a group for every `{}`.

    Example:
        >>> path_regex("*block_{}/mlp_*").fullmatch("params/block_12/mlp_0/bias").group(1)
        '12'
    """
    parts = re.split(r"(\*|\{\})", pattern)
    written = {"*": ".*", PLACE: "([^/]+?)"}
    return re.compile("".join(written.get(part) or re.escape(part) for part in parts))


def group_paths(caller: str, paths: Iterable[str], pattern: str) -> dict[str, tuple[str, ...]]:
    """Sort the leaves of a network into blocks by their paths.

    Args:
        caller: the method, for messages.
        paths: paths of all leaves.
        pattern: a path in which `*` stands for anything and `{}` for the number or name of a block.
            Leaves that match with the same in all places of `{}` are one block; all that match are
            one where there is no such place.

    Returns:
        The name of every block and the paths of its leaves; `block_2` comes before `block_10`.

    Raises:
        ValueError: nothing matches; lists the paths.

    Example:
        >>> paths = ["block_1/mlp/bias", "block_0/mlp/bias", "block_0/mlp/kernel", "head/bias"]
        >>> group_paths("doc", paths, "*block_{}/mlp/*")
        {'0': ('block_0/mlp/bias', 'block_0/mlp/kernel'), '1': ('block_1/mlp/bias',)}
    """
    regex, paths = path_regex(pattern), list(paths)
    found: dict[str, list[str]] = {}
    for path in paths:
        if match := regex.fullmatch(path):
            found.setdefault("_".join(match.groups()) or "all", []).append(path)
    require(
        bool(found), caller, "blocks", 'a pattern that fits paths of leaves, such as "*block_{}/mlp_*"',
        repr(pattern), f"Paths: {', '.join(paths)}.",
    )  # fmt: skip
    return {name: tuple(found[name]) for name in sorted(found, key=natural_key)}


def trace_blocks(
    caller: str, apply_fn: ApplyFn, params: Params, x: Any, pattern: str, *, whole: bool = False
) -> BlockProgram:
    """Trace a network and find its blocks.

    Args:
        caller: the method, for messages.
        apply_fn: the network's function.
        params: its parameters, arrays or shapes.
        x: inputs, arrays or shapes.
        pattern: see `group_paths`.
        whole: end a block only where nothing behind it reads what it reads: with its residual sum.

    Raises:
        ValueError: nothing matches, or what a block's leaves read and make is not one value each, apart
            from all other blocks.
    """
    shapes = jax.eval_shape(lambda leaves: leaves, params)
    program = FlatProgram(trace_program(apply_fn, shapes, x, caller=caller), keep_derivatives=True)
    outputs = jax.tree.structure(jax.eval_shape(apply_fn, shapes, x))
    return BlockProgram(program, _find_blocks(caller, program, x, pattern, whole), outputs)


def trace_stacked(caller: str, apply_fn: ApplyFn, stacked: Params, x: Any, pattern: str) -> BlockProgram:
    """Trace a network whose blocks' leaves have one more leading axis. See `trace_blocks`."""
    leaves = flatten_by_path(stacked)
    own = {path for paths in group_paths(caller, leaves, pattern).values() for path in paths}
    shapes = {
        path: jax.ShapeDtypeStruct(leaf.shape[1:] if path in own else leaf.shape, leaf.dtype)
        for path, leaf in leaves.items()
    }
    return trace_blocks(caller, apply_fn, unflatten_like(stacked, shapes), x, pattern)


class _Flow:
    """What depends on what in a program: the values that its outputs need, in order.

    Attributes:
        sources: number of a value -> what it is computed from, where that depends on the inputs.
        users: number of a value -> what is computed from it.
        owners: number of a value of leaves alone -> the blocks whose leaves it is made of.
        meets: name of a block -> the values made by equations in which its leaves meet activations.
    """

    def __init__(self, program: FlatProgram, groups: Mapping[str, tuple[str, ...]]) -> None:
        needed = program.needed(program.outputs)
        order = list(graphlib.TopologicalSorter(needed).static_order())
        self.program = program
        self.rank = {number: place for place, number in enumerate(order)}
        self.sources: dict[int, list[int]] = {number: [] for number in program.inputs}
        self.users: dict[int, list[int]] = {}
        self.owners = {program.leaves[path]: {name} for name, paths in groups.items() for path in paths}
        self.meets: dict[str, list[int]] = {name: [] for name in groups}
        for number in order:
            sources = set(needed[number])
            live = [source for source in sources if source in self.sources]
            owners = {name for source in sources for name in self.owners.get(source, ())}
            if not live:
                if owners:
                    self.owners[number] = owners
                continue
            self.sources[number] = live
            for source in live:
                self.users.setdefault(source, []).append(number)
            for name in owners:
                self.meets[name].append(number)

    def before(self, numbers: Iterable[int]) -> int | None:
        """The nearest value on all ways from the inputs to some values; None if there is none."""
        return _meeting(numbers, self.sources.__getitem__, self.program.inputs, lambda n: -self.rank[n])

    def behind(self, numbers: Iterable[int]) -> int | None:
        """The nearest value on all ways from some values to the outputs; None if there is none."""
        return _meeting(numbers, self.users.__getitem__, self.program.outputs, self.rank.__getitem__)


def _meeting(
    start: Iterable[int],
    onward: Callable[[int], Iterable[int]],
    ends: Iterable[int],
    rank: Callable[[int], int],
) -> int | None:
    """Walk from some values, always from the one that comes first by rank, until one is left."""
    seen, ends = set(start), set(ends)
    front = [(rank(number), number) for number in seen]
    heapq.heapify(front)
    while len(front) > 1:
        number = heapq.heappop(front)[1]
        if number in ends:
            return None
        new = set(onward(number)) - seen
        seen |= new
        for other in new:
            heapq.heappush(front, (rank(other), other))
    return front[0][1]


def _find_blocks(caller: str, program: FlatProgram, x: Any, pattern: str, whole: bool) -> tuple[Block, ...]:
    groups = group_paths(caller, program.leaves, pattern)
    flow = _Flow(program, groups)
    likes = {n: jax.ShapeDtypeStruct(v.shape, v.dtype) for n, v in zip(program.inputs, jax.tree.leaves(x))}
    for equation in program.equations.values():
        for number, var in zip(equation.outputs, equation.eqn.outvars):
            likes[number] = jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)
    meets = {number: name for name, numbers in flow.meets.items() for number in numbers}
    blocks = []
    for name, paths in groups.items():
        read, made, got = _ends(flow, name, whole)
        if not got:
            inside = program.needed([made], given({read: None}))
            for other in (meets[number] for number in inside if number != read and number in meets):
                if other != name:
                    got = (
                        f"block {name!r}, which makes more than one value that is used before block {other!r}"
                    )
        require(
            not got, caller, f"blocks {pattern!r}", "parts of the network that read one value and make one",
            got, f"Its leaves: {', '.join(paths)}.",
        )  # fmt: skip
        blocks.append(Block(name, paths, read, made, likes[read], likes[made]))
    return tuple(blocks)


def _ends(flow: _Flow, name: str, whole: bool) -> tuple[int, int, str]:
    """What a block reads and makes, and what is wrong with it."""
    meets = flow.meets[name]
    if not meets:
        return 0, 0, f"block {name!r}, whose leaves meet no activations"
    read, made = None, flow.behind(meets)
    while made is not None:
        found = flow.before([made, *(source for number in meets for source in flow.sources[number])])
        if found is None:
            return 0, 0, f"block {name!r}, which reads more than one of the inputs"
        if not whole or found == read:
            return found, made, ""
        read, made = found, flow.behind([*meets, *flow.users[found]])
    return 0, 0, f"block {name!r}, which makes more than one value that the outputs use"
