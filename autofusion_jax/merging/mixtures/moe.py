"""Mixtures of experts: blocks of a network in several versions, and routers that choose among them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.mixtures.module_blocks import (
    MLP_BLOCKS,
    Block,
    BlockProgram,
    group_paths,
    trace_blocks,
    trace_stacked,
)
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import wide_dtype, wide_inexact
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.program import Override
from autofusion_jax.trees import flatten_by_path, num_params, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

ROUTER_STD = 0.02
"""Standard deviation of a fresh router's weights (Komatsuzaki et al., Mixtral)."""


def stack_blocks(
    caller: str, rest: Params, versions: Sequence[Params], pattern: str
) -> tuple[Params, frozenset[str]]:
    """Put several versions of its blocks into a network.

    Args:
        caller: the method, for messages.
        rest: the network that all other leaves are taken from.
        versions: networks of the same structure that have the versions of the blocks.
        pattern: see `group_paths`.

    Returns:
        The network, in which the blocks' leaves have a leading axis `[versions]`, and their paths.
    """
    leaves, others = flatten_by_path(rest), [flatten_by_path(version) for version in versions]
    own = frozenset(path for paths in group_paths(caller, leaves, pattern).values() for path in paths)
    stacked = {path: jnp.stack([other[path] for other in others]) for path in own}
    return unflatten_like(rest, leaves | stacked), own


def trace_routed(caller: str, task: MergeTask, pattern: str) -> BlockProgram:
    """Trace the networks of a merge; raise ValueError where a router could not read a block's input."""
    traced = trace_blocks(caller, task.require_apply_fn(), task.models[0], task.require_x()[:1], pattern)
    for block in traced.blocks:
        like = block.read_like
        require(
            jnp.issubdtype(like.dtype, jnp.floating) and len(like.shape) >= 2, caller, f"blocks {pattern!r}",
            "parts of the network that read features [N, ..., d]",
            f"block {block.name!r}, which reads {like.dtype}{list(like.shape)}",
        )  # fmt: skip
    return traced


def run_mixture(
    traced: BlockProgram,
    params: Params,
    x: Array,
    mix: Callable[[BlockProgram, Block, Any, Mapping[str, Array], Mapping[str, Array], Array], Array],
) -> Any:
    """Run a network whose blocks are there in several versions.

    Args:
        traced: the network of one version.
        params: `{"network": stacked by `stack_blocks`, "router": {block: its router}}`.
        x: inputs `[N, ...]`.
        mix: makes a block's output of the program, the block, its router, its leaves
            `[versions, ...]`, all leaves outside of blocks, and its input.

    Returns:
        The network's outputs.
    """
    leaves = flatten_by_path(params["network"])
    own = {path for block in traced.blocks for path in block.paths}
    rest = {path: leaf for path, leaf in leaves.items() if path not in own}
    rules = {
        block.made: Override(
            (block.read,),
            functools.partial(
                mix, traced, block, params["router"][block.name],
                {path: leaves[path] for path in block.paths}, rest,
            ),
        )
        for block in traced.blocks
    }  # fmt: skip
    program = traced.program
    return traced.outputs.unflatten(program.evaluate(program.outputs, traced.values(rest, x), rules))


def route(
    kernel: Float[Array, "d experts"], read: Float[Array, "*batch d"], experts_per_token: int
) -> Float[Array, "*batch experts"]:
    """The share of every expert: the softmax over the k largest of `read @ kernel`, 0 for all others.

    In float32 or wider.

    Args:
        kernel: the router.
        read: what the block reads.
        experts_per_token: k, how many experts have a share.

    Example:
        >>> route(jnp.eye(3), jnp.array([[2.0, 1.0, 2.0]]), 2).tolist()
        [[0.5, 0.0, 0.5]]
    """
    wide = wide_dtype(read.dtype, kernel.dtype)
    top, chosen = jax.lax.top_k(read.astype(wide) @ kernel.astype(wide), experts_per_token)
    shares = jax.nn.softmax(top)[..., None] * jax.nn.one_hot(chosen, kernel.shape[1], dtype=top.dtype)
    return shares.sum(-2)


def moe_apply(apply_fn: ApplyFn, *, blocks: str = MLP_BLOCKS, experts_per_token: int = 2) -> ApplyFn:
    """Make the function of a mixture of experts from that of the networks it was made of.

    `block(h) = sum_e share_e(h) expert_e(h)`, with `route`'s shares at every position of h
    `[N, *positions, d]`; where a block makes other positions than it reads, for every input, of the
    mean over them. All experts run, one after another, so that one expert's activations are held at once;
    those without a share count 0.

    Args:
        apply_fn: the networks' function.
        blocks: the pattern of their paths, as given to the method.
        experts_per_token: as given to the method.

    Returns:
        A jitted function of the result's `params` and inputs `[N, ...]`; it traces `apply_fn` at any N.

    Example:
        >>> apply_fn = lambda p, x: jnp.tanh(x) @ p["mlp"]
        >>> mixture = moe_apply(apply_fn, blocks="mlp", experts_per_token=1)
        >>> experts = jnp.stack([jnp.eye(2), 3 * jnp.eye(2)])
        >>> params = {"network": {"mlp": experts}, "router": {"all": {"kernel": jnp.eye(2)}}}
        >>> mixture(params, jnp.array([[9.0, 0.0], [0.0, 9.0]])).tolist()
        [[1.0, 0.0], [0.0, 3.0]]
    """
    return _Mixture(apply_fn, blocks, experts_per_token)


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """A mixture as a network; those of equal fields are equal, so that they share their programs."""

    apply_fn: ApplyFn
    blocks: str
    experts_per_token: int

    @jit_by_network()
    def __call__(self, params: Params, x: Array) -> Any:
        traced = trace_stacked("moe_apply", self.apply_fn, params["network"], x, self.blocks)
        return run_mixture(traced, params, x, functools.partial(_mix, self.experts_per_token))


def _mix(
    experts_per_token: int,
    traced: BlockProgram,
    block: Block,
    router: Mapping[str, Array],
    experts: Mapping[str, Array],
    rest: Mapping[str, Array],
    read: Array,
) -> Array:
    like = block.made_like
    if read.shape[:-1] == like.shape[:-1]:
        shares = route(router["kernel"], read, experts_per_token)
    else:
        pooled = read.mean(range(1, read.ndim - 1), wide_dtype(read.dtype))
        shares = route(router["kernel"], pooled, experts_per_token)
        shares = shares.reshape(len(read), *(1,) * (len(like.shape) - 2), -1)

    def add(total: Array, expert: tuple[Mapping[str, Array], Array]) -> tuple[Array, None]:
        leaves, share = expert
        made = traced.run_block(block, {**rest, **leaves}, read)
        return total + share[..., None].astype(total.dtype) * made.astype(total.dtype), None

    start = jnp.zeros(like.shape, wide_inexact(like.dtype))
    total, _ = jax.lax.scan(add, start, (dict(experts), jnp.moveaxis(shares, -1, 0)))
    return total.astype(like.dtype)


def mixture_of(
    caller: str,
    task: MergeTask,
    key: Key[Array, ""],
    rest: Params,
    versions: Sequence[Params],
    blocks: str,
    experts_per_token: int,
) -> MergeResult:
    """A mixture of experts with fresh routers.

    Args:
        caller: the method, for messages.
        task: what is merged.
        key: decides the routers.
        rest: the network that all leaves outside of the blocks are taken from.
        versions: the networks whose blocks are the experts.
        blocks: see `group_paths`.
        experts_per_token: how many experts have a share at every position.
    """
    traced = trace_routed(caller, task, blocks)
    network, own = stack_blocks(caller, rest, versions, blocks)
    apply = moe_apply(task.require_apply_fn(), blocks=blocks, experts_per_token=experts_per_token)
    idle = 1 - experts_per_token / len(versions)
    experts = sum(leaf.size for path, leaf in flatten_by_path(network).items() if path in own)
    router = {
        block.name: {"kernel": _fresh_router(k, block.read_like, len(versions))}
        for block, k in zip(traced.blocks, jax.random.split(key, len(traced.blocks)))
    }
    params = {"network": network, "router": router}
    total = num_params(params)
    counts = {"num_params": total, "num_active": total - round(idle * experts)}
    return MergeResult(params, apply, diagnostics=counts)


def _fresh_router(key: Key[Array, ""], like: jax.ShapeDtypeStruct, experts: int) -> Float[Array, "d experts"]:
    return ROUTER_STD * jax.random.normal(key, (like.shape[-1], experts), like.dtype)


def check_experts(caller: str, num_experts: int, experts_per_token: int, what: str) -> None:
    """Raise ValueError unless a position can have that many experts."""
    ok = 1 <= experts_per_token <= num_experts
    require(ok, caller, "experts_per_token", f"in [1, {num_experts}], {what}", experts_per_token)
