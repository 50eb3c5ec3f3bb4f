"""Depth up-scaling: a network of which some blocks follow twice, so that it is deeper."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax import Array
from jax.tree_util import DictKey, SequenceKey

from autofusion_jax.arguments import shown
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.module_blocks import (
    PLACE,
    WHOLE_BLOCKS,
    Block,
    BlockProgram,
    group_paths,
    path_regex,
    trace_blocks,
)
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.program import given
from autofusion_jax.trees import flatten_by_path, num_params, path_str
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

NAME = "depth_upscaling"
ITEM = re.compile(r"range\((\d{1,5}),(\d{1,5})\)|(\d{1,5})-(\d{1,5})|(\d{1,5})")

Layers = str | Sequence[int | str]
"""Indices of blocks, written out or as a string."""


@factory
def depth_upscaling(*, layers: Layers | None = None, blocks: str = WHOLE_BLOCKS) -> Method:
    """Put blocks of a network one after another in a new order, some of them twice, to be trained further.

    `layers` are n blocks in SOLAR's way if left out: all but the last n // 4, then all but the first
    n // 4. Of 32 blocks that makes 48: `"0-23,8-31"`.

    Args:
        layers: which block comes first, second, ...: indices, `"0-3,1-3"` (both ends included),
            `"range(0,4),range(1,4)"` (the second end is not), or a list of any of these.
        blocks: a pattern of the paths of the blocks' leaves, in which `*` stands for anything and `{}` for
            the number or name of a block.

    Returns:
        A method for one network; of several it takes the first. It needs no data; with an `apply_fn`,
        the result has one. Its `params` are the network's own with more or fewer blocks, numbered
        from 0, so that a program that builds the network in any depth runs them as they are.
        `upscale_depth` makes them, `upscaled_apply` the `apply_fn`.

    Raises:
        ValueError: `layers` cannot be read or names no block; no block is found, they do not follow one
            another, or do not fit behind one another.

    References:
        Kim, Park, Kim, Lee, Song, Kim, Kim, Kim, Lee, Kim, et al.: SOLAR 10.7B: scaling large language
        models with simple yet effective depth up-scaling, NAACL 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> params = {"block_0": {"w": 2 * jnp.eye(1)}, "block_1": {"w": 3 * jnp.eye(1)}}
        >>> apply_fn = lambda p, x: x @ p["block_0"]["w"] @ p["block_1"]["w"]
        >>> options = {"apply_fn": apply_fn, "layers": "0-1,1", "method": "depth_upscaling"}
        >>> result = af.merge_many([params], None, None, **options)
        >>> list(result.params), result.apply_fn(result.params, jnp.ones((1, 1))).tolist()
        (['block_0', 'block_1', 'block_2'], [[18.0]])
    """
    order = None if layers is None else parse_layers(layers)
    one = blocks.count(PLACE) == 1
    require(one, NAME, "blocks", "a pattern with one {}, where blocks are numbered", shown(blocks))

    def run(task: MergeTask, key: Array) -> MergeResult:
        network = task.models[0]
        chosen = (
            solar_layers(len(group_paths(NAME, flatten_by_path(network), blocks))) if order is None else order
        )
        params, apply = upscale_depth(network, chosen, blocks=blocks), None
        if task.apply_fn is not None:
            shapes = jax.eval_shape(lambda leaves: leaves, network)
            apply = upscaled_apply(task.apply_fn, shapes, layers=chosen, blocks=blocks)
            if task.x is not None:
                jax.eval_shape(apply, params, task.x)
        diagnostics = {"num_params": num_params(params), "layers": chosen}
        return MergeResult(params, apply, diagnostics=diagnostics)

    return Method(NAME, run, uses_key=False, max_models=None, min_models=1, changes_program=True)


def solar_layers(num_blocks: int) -> tuple[int, ...]:
    """All but the last n // 4 blocks, then all but the first n // 4.

    Example:
        >>> solar_layers(4)
        (0, 1, 2, 1, 2, 3)
    """
    cut = num_blocks // 4
    return (*range(num_blocks - cut), *range(cut, num_blocks))


def parse_layers(layers: Layers) -> tuple[int, ...]:
    """Read the indices of blocks.

    Raises:
        ValueError: it holds something else, or nothing.

    Example:
        >>> parse_layers("0-2,1"), parse_layers(["range(0, 2)", 5])
        ((0, 1, 2, 1), (0, 1, 5))
    """
    found: list[int] = []
    for item in [layers] if isinstance(layers, str) else layers:
        text = re.sub(r"\s", "", str(item))
        parts = list(ITEM.finditer(text))
        spans = [_span(part) for part in parts]
        readable = ",".join(part.group() for part in parts) == text and all(spans)
        require(
            readable, NAME, "layers", 'indices, or strings such as "0-3,1-3" or "range(0,4)"', shown(item)
        )
        found.extend(index for span in spans for index in span)
    require(bool(found), NAME, "layers", "one or more indices", shown(list(layers)))
    return tuple(found)


def _span(part: re.Match[str]) -> range:
    first, end, low, high, single = (None if group is None else int(group) for group in part.groups())
    if single is not None:
        return range(single, single + 1)
    return range(first or 0, end or 0) if low is None else range(low, (high or 0) + 1)


def _moves(
    params: Params, indices: Sequence[int], blocks: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Key paths by path: where leaves outside of blocks go, and for every layer those of its block."""
    keys = {path_str(path): path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    groups = group_paths(NAME, keys, blocks)
    names = list(groups)
    require(
        max(indices) < len(names), NAME, "layers", f"indices in [0, {len(names)}), the network's blocks",
        list(indices),
    )  # fmt: skip
    for path, entries in keys.items():
        plain = all(isinstance(entry, DictKey | SequenceKey) for entry in entries)
        require(plain, NAME, "models", "a pytree of dicts and lists", f"another kind of node above {path!r}")
    own, regex = {path for paths in groups.values() for path in paths}, path_regex(blocks)
    rest = {path: key for path, key in keys.items() if path not in own}
    moved = [
        {path: _renumbered(regex, path, keys[path], number) for path in groups[names[index]]}
        for number, index in enumerate(indices)
    ]
    return rest, moved


def _renumbered(regex: re.Pattern[str], path: str, key: tuple[Any, ...], number: int) -> tuple[Any, ...]:
    """The key path of a leaf whose block gets another number."""
    match = regex.fullmatch(path)
    assert match is not None
    start, end = match.span(1)
    place, before = path[:start].count("/"), path[:start].rpartition("/")[2]
    after = path[end:].partition("/")[0]
    entry: Any = DictKey(f"{before}{number}{after}")
    if isinstance(key[place], SequenceKey):
        entry = SequenceKey(number)
    elif isinstance(key[place].key, int):
        entry = DictKey(number)
    return (*key[:place], entry, *key[place + 1 :])


def upscale_depth(params: Params, layers: Layers, *, blocks: str = WHOLE_BLOCKS) -> Params:
    """Put the leaves of blocks where their new numbers say.

    Args:
        params: parameters of a network, a pytree of dicts and lists.
        layers: see `depth_upscaling`.
        blocks: see `depth_upscaling`.

    Example:
        >>> upscale_depth({"block_0": {"w": 1}, "block_1": {"w": 2}, "head": 3}, [1, 0, 1])
        {'head': 3, 'block_0': {'w': 2}, 'block_1': {'w': 1}, 'block_2': {'w': 2}}
    """
    leaves = flatten_by_path(params)
    rest, moved = _moves(params, parse_layers(layers), blocks)
    return _nested({key: leaves[path] for part in (rest, *moved) for path, key in part.items()})


def _nested(leaves: dict[tuple[Any, ...], Any]) -> Params:
    """Dicts and lists of leaves by their key paths."""
    if () in leaves:
        return leaves[()]
    children: dict[Any, dict[tuple[Any, ...], Any]] = {}
    for (first, *others), leaf in leaves.items():
        children.setdefault(first, {})[tuple(others)] = leaf
    if all(isinstance(entry, SequenceKey) for entry in children):
        return [_nested(children[entry]) for entry in sorted(children, key=lambda entry: entry.idx)]
    return {entry.key: _nested(child) for entry, child in children.items()}


def upscaled_apply(
    apply_fn: ApplyFn, network: Params, *, layers: Layers, blocks: str = WHOLE_BLOCKS
) -> ApplyFn:
    """Make the function of an upscaled network from that of the network it was made of.

    It runs through the blocks of the traced network in their new order. What stands between block i
    and the next one (a ReLU) follows block i wherever it stands; the last block is followed by what
    follows the one before it, if another block comes behind.

    Args:
        apply_fn: the function of the network.
        network: its parameters, arrays or shapes.
        layers: as given to the method.
        blocks: as given to the method.

    Returns:
        A jitted function of the result's `params` and inputs `[N, ...]`.
    """
    leaves, tree = jax.tree.flatten(network)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _Upscaled(apply_fn, tree, shapes, parse_layers(layers), blocks)


@dataclasses.dataclass(frozen=True)
class _Upscaled:
    """An upscaled network; those of equal fields are equal, so that they share their programs.

    Attributes:
        apply_fn: the function of the network that it was made of.
        tree: the structure of that network's parameters.
        shapes: of its leaves.
        indices: numbers of the blocks, in their new order.
        blocks: the pattern of their paths.
    """

    apply_fn: ApplyFn
    tree: Any
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    indices: tuple[int, ...]
    blocks: str

    @jit_by_network()
    def __call__(self, params: Params, x: Array) -> Any:
        network, indices = self.tree.unflatten(self.shapes), self.indices
        rest, moved = _moves(network, indices, self.blocks)
        traced = trace_blocks(NAME, self.apply_fn, network, x, self.blocks, whole=True)
        _check_chain(traced, indices)
        program, leaves = traced.program, flatten_by_path(params)
        shared = {path: leaves[path] for path in rest}
        values = traced.values(shared, x)
        (value,) = program.evaluate([traced.blocks[0].read], values)
        for index, renamed, follows in zip(indices, moved, [*indices[1:], None]):
            own = {path: leaves[path_str(key)] for path, key in renamed.items()}
            value = traced.run_block(traced.blocks[index], shared | own, value)
            if follows is not None:
                for block, after in _gap(traced, index):
                    (value,) = program.evaluate([after.read], values, given({block.made: value}))
        outputs = program.evaluate(program.outputs, values, given({traced.blocks[-1].made: value}))
        return traced.outputs.unflatten(outputs)


def _gap(traced: BlockProgram, index: int) -> list[tuple[Block, Block]]:
    """The two blocks between which stands what follows a block; none if there is only one block."""
    pairs = list(zip(traced.blocks, traced.blocks[1:]))
    return pairs[index : index + 1] or pairs[-1:]


def _check_chain(traced: BlockProgram, indices: Iterable[int]) -> None:
    """Raise ValueError unless blocks follow one another, and fit behind one another as asked for."""
    blocks, program = traced.blocks, traced.program
    for number, block in enumerate(blocks):
        wanted = [blocks[number + 1].read] if number + 1 < len(blocks) else program.outputs
        needed = program.needed(wanted, given({block.made: None}))
        other = next((b.name for b in blocks[:number] if b.made in needed), None)
        got = f"block {block.name!r}, past which block {other!r} is read" if other else ""
        got = got if block.made in needed else f"block {block.name!r}, which the next one does not read"
        require(not got, NAME, "blocks", "a chain, each of which alone feeds the next", got)
    order = [blocks[index] for index in indices]
    fits = [(blocks[0].read_like, order[0].read_like, order[0].name)]
    for index, block, after in zip(indices, order, order[1:]):
        for before, behind in _gap(traced, index):
            fits += [(before.made_like, block.made_like, block.name)]
            fits += [(behind.read_like, after.read_like, after.name)]
        if len(blocks) == 1:
            fits += [(block.made_like, after.read_like, after.name)]
    for wanted, got, name in [*fits, (blocks[-1].made_like, order[-1].made_like, order[-1].name)]:
        require(
            wanted == got, NAME, "layers", f"blocks that fit one another, with {list(wanted.shape)} here",
            f"block {name!r} with {list(got.shape)}",
        )  # fmt: skip
