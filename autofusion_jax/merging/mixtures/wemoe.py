"""WEMoE: blocks whose weights are merged anew for every input, by coefficients that a router gives."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count, CountOrZero, Positive
from autofusion_jax.merging.adaptive.adaptation import (
    adaptation_data,
    finite_curve,
    minimise_entropy,
)
from autofusion_jax.merging.leafwise import merge_leaves
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.module_blocks import MLP_BLOCKS, Block, BlockProgram, trace_stacked
from autofusion_jax.merging.mixtures.moe import run_mixture, stack_blocks, trace_routed
from autofusion_jax.merging.per_model_inputs import Batches
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.task_arithmetic import add_task_vectors
from autofusion_jax.programs import jit_by_network
from autofusion_jax.trees import num_params
from autofusion_jax.types import ApplyFn, Params, Scalar

ROUTER_STD = 0.01
"""Standard deviation of a fresh router's weights."""


@dataclasses.dataclass(frozen=True)
class WemoeOptions:
    """How routers start and are learned; see `wemoe`."""

    depth: int
    scale: float
    learning_rate: float
    num_steps: int
    batch_size: int
    blocks: str
    variant: str


@factory
def wemoe(
    *,
    depth: CountOrZero = 2,
    scale: Positive = 0.3,
    learning_rate: Positive = 1e-4,
    num_steps: Count = 1000,
    batch_size: Count = 16,
    blocks: str = MLP_BLOCKS,
    variant: Literal["paper", "fusionbench"] = "paper",
    inputs: Batches | None = None,
) -> Method:
    r"""Merge blocks anew for every input: each reads h and has the weights

    `base + sum_k gate_k(h) (params_k - base)`, where `gate(h)` is a router, averaged over the
    positions of h. All else is `base + scale sum_k (params_k - base)`. The routers are learned by Adam on
    the mean entropy `-sum_c p_c log(p_c + 1e-8)` of the predictions, which need no labels.

    Args:
        depth: layers of a router, >= 0. 2: `relu(h W_0 + b_0) W_1 + b_1`, with as many hidden units as
            h has features; 1: `h W_0 + b_0`; 0: `b_0` alone, the same for all inputs.
        scale: how much of each task vector is added outside of the blocks, > 0; a router's last bias
            starts there as well, its weights at `N(0, 0.01^2)`.
        learning_rate: of Adam, > 0.
        num_steps: how many steps it takes, >= 1.
        batch_size: inputs in a step, >= 1; for each network, where `inputs` are given.
        blocks: a pattern of the paths of the blocks' leaves, in which `*` stands for anything and `{}` for
            the number or name of a block.
        variant: `"paper"`: weights of its own for every input; `"fusionbench"`: `gate` is averaged over
            all inputs that are run together as well.
        inputs: inputs `[N, ...]` of each network's own data; the entropies of all are then added up.
            Otherwise the batch of the merge, which should hold inputs of all tasks.

    Returns:
        A method for any number of networks; needs `base`, inputs and an `apply_fn`, no spec. The
        result's `params` are `{"network": ..., "router": ...}`: in the network, the blocks' leaves
        have a leading axis `[1 + networks]`, the base's and the task vectors. `wemoe_apply` makes
        its `apply_fn` again. `history` has the `entropy` of every step, `diagnostics` the
        `num_params` of it all: every number has a part in every output.

    Raises:
        ValueError: an option is out of its range; no block is found, or it does not read and make one
            value; or the networks do not give logits.

    References:
        Tang, Shen, Luo, Yin, Zhang, Tao: Merging multi-task models via weight-ensembling mixture of
        experts, ICML 2024.

    Example:
        >>> wemoe(depth=1).name
        'wemoe'
    """
    options = WemoeOptions(depth, scale, learning_rate, num_steps, batch_size, blocks, variant)

    def run(task: MergeTask, key: Array) -> MergeResult:
        data = adaptation_data("wemoe", task, inputs)
        return _merged(dataclasses.replace(task, x=data[0]), options, data, key)

    return Method("wemoe", run, max_models=None, assumes_aligned=True, needs_base=True, changes_program=True)


def _merged(
    task: MergeTask, options: WemoeOptions, data: tuple[Array, ...], key: Key[Array, ""]
) -> MergeResult:
    traced = trace_routed("wemoe", task, options.blocks)
    network = weight_ensemble(task.require_base(), task.models, options.scale, blocks=options.blocks)
    apply = wemoe_apply(task.require_apply_fn(), blocks=options.blocks, variant=options.variant)
    start_key, key = jax.random.split(key)
    start = {
        block.name: init_router(k, block.read_like.shape[-1], len(task.models), options)
        for block, k in zip(traced.blocks, jax.random.split(start_key, len(traced.blocks)))
    }
    router, entropy = learn_routers(apply, options, network, start, data, key)
    params = {"network": network, "router": router}
    return MergeResult(
        params, apply, history={"entropy": finite_curve("wemoe", "the entropy", entropy)},
        diagnostics={"num_params": num_params(params)}, num_learned=num_params(router),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames="blocks")
def weight_ensemble(
    base: Params, models: Sequence[Params], scale: Scalar, *, blocks: str = MLP_BLOCKS
) -> Params:
    """The network of `wemoe`: task arithmetic, but for blocks `[base, delta_1, ..., delta_T]`.

    Pure; jit-able, and vmap-able over `scale`.

    Args:
        base: the network that all were fine-tuned from.
        models: parameters of one structure.
        scale: see `wemoe`.
        blocks: see `wemoe`.

    Example:
        >>> base, tuned = ({"mlp": jnp.full(1, value), "head": jnp.full(1, value)} for value in (1.0, 0.0))
        >>> network = weight_ensemble(base, [tuned, tuned], 0.25, blocks="mlp")
        >>> network["mlp"].tolist(), network["head"].tolist()
        ([[1.0], [-1.0], [-1.0]], [0.5])
    """
    deltas = [merge_leaves(jnp.subtract, [params, base]) for params in models]
    rest = add_task_vectors(base, models, scale)
    return stack_blocks("wemoe", rest, [base, *deltas], blocks)[0]


def init_router(key: Key[Array, ""], size: int, num: int, options: WemoeOptions) -> dict[str, Any]:
    """Draw a router from features `[size]` to coefficients `[num]`."""
    last = jnp.full(num, options.scale)
    if options.depth == 0:
        return {"bias": last}
    widths = [size] * options.depth + [num]
    return {
        f"layer_{i}": {
            "kernel": ROUTER_STD * jax.random.normal(k, (widths[i], widths[i + 1])),
            "bias": last if i + 1 == options.depth else jnp.zeros(size),
        }
        for i, k in enumerate(jax.random.split(key, options.depth))
    }


def run_router(router: Mapping[str, Any], read: Float[Array, "*batch d"]) -> Float[Array, "*batch num"]:
    """The coefficients of every position: dense layers with ReLU in between, or a bias alone.

    Example:
        >>> run_router({"bias": jnp.array([0.3, 0.5])}, jnp.ones((1, 4))).tolist()
        [[0.30000001192092896, 0.5]]
    """
    if "bias" in router:
        return jnp.broadcast_to(router["bias"], (*read.shape[:-1], *router["bias"].shape))
    layers = [router[f"layer_{i}"] for i in range(len(router))]
    for layer in layers[:-1]:
        read = jax.nn.relu(read @ layer["kernel"] + layer["bias"])
    return read @ layers[-1]["kernel"] + layers[-1]["bias"]


def wemoe_apply(apply_fn: ApplyFn, *, blocks: str = MLP_BLOCKS, variant: str = "paper") -> ApplyFn:
    """Make the function of a weight ensemble from that of the networks it was made of.

    Args:
        apply_fn: the networks' function.
        blocks: the pattern of their paths, as given to the method.
        variant: as given to the method.

    Returns:
        A jitted function of the result's `params` and inputs `[N, ...]`; it traces `apply_fn` at any N.

    Example:
        >>> apply = wemoe_apply(lambda p, x: x @ p["mlp"], blocks="mlp")
        >>> network = {"mlp": jnp.stack([jnp.zeros((1, 1)), jnp.ones((1, 1))])}
        >>> router = {"all": {"layer_0": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}}
        >>> apply({"network": network, "router": router}, jnp.array([[2.0], [3.0]])).tolist()  # gate(x) x
        [[4.0], [9.0]]
    """
    return _Ensemble(apply_fn, blocks, variant)


@dataclasses.dataclass(frozen=True)
class _Ensemble:
    """A weight ensemble as a network; those of equal fields are equal, so that they share their programs."""

    apply_fn: ApplyFn
    blocks: str
    variant: str

    @jit_by_network()
    def __call__(self, params: Params, x: Array) -> Any:
        if self.variant == "fusionbench":
            return self._together(params, x)
        outputs = jax.vmap(lambda one: self._together(params, one[None]))(x)
        return jax.tree.map(lambda out: out[:, 0], outputs)

    def _together(self, params: Params, x: Array) -> Any:
        traced = trace_stacked("wemoe_apply", self.apply_fn, params["network"], x, self.blocks)
        return run_mixture(traced, params, x, _mix)


def _mix(
    traced: BlockProgram,
    block: Block,
    router: Mapping[str, Any],
    versions: Mapping[str, Array],
    rest: Mapping[str, Array],
    read: Array,
) -> Array:
    gate = run_router(router, read).mean(range(read.ndim - 1))
    shares = jnp.concatenate([jnp.ones(1, gate.dtype), gate])
    merged = {path: _combined(shares, leaf) for path, leaf in versions.items()}
    return traced.run_block(block, {**rest, **merged}, read)


def _combined(shares: Float[Array, " num"], leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf[0]
    return jnp.tensordot(shares, leaf, 1).astype(leaf.dtype)


@jit_by_network(static_argnames=("options",))
def learn_routers(
    apply: ApplyFn,
    options: WemoeOptions,
    network: Params,
    start: Params,
    data: tuple[Array, ...],
    key: Key[Array, ""],
) -> tuple[Params, Float[Array, " steps"]]:
    """Minimise the entropy of the predictions over the routers.

    Args:
        apply: from `wemoe_apply`.
        options: how.
        network: from `weight_ensemble`.
        start: the routers of all blocks.
        data: inputs, one array or more; every step draws a batch of each.
        key: decides the batches.

    Returns:
        The routers, and the entropy before each step.
    """

    def logits(router: Params, x: Array) -> Array:
        return apply({"network": network, "router": router}, x)

    return minimise_entropy(
        logits, start, data, key, learning_rate=options.learning_rate, num_steps=options.num_steps,
        batch_size=options.batch_size,
    )  # fmt: skip
