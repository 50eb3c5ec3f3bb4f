"""SMILE: every linear layer becomes the base's, plus a sparse mixture of low-rank experts."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Inexact

from autofusion_jax.arguments import Count
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.svd import significant, thin_svd
from autofusion_jax.precision import wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, Override
from autofusion_jax.trees import flatten_by_path, num_params, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require


@dataclasses.dataclass(frozen=True)
class SmileNetwork:
    """The program of an upscaled network; call it like any `apply_fn`.

    Attributes:
        apply_fn: the function of the networks that it was made of.
        top_k: how many experts count.
    """

    apply_fn: ApplyFn
    top_k: int

    def __call__(self, params: Params, x: Any) -> Any:
        """The outputs, each linear layer with its experts."""
        network = params["network"]
        program = FlatProgram(trace_program(self.apply_fn, network, x, caller="smile"))
        tree = jax.tree.structure(jax.eval_shape(self.apply_fn, network, x))
        layers = LinearLayers(program, network, raw_inputs=True).layers
        rules = dict(
            self._rule(program, layer, params["experts"][layer.weight])
            for layer in layers
            if layer.weight in params["experts"]
        )
        return tree.unflatten(program.evaluate(program.outputs, program.values(network, x), rules))

    def _rule(
        self, program: FlatProgram, layer: LinearLayer, experts: dict[str, Array]
    ) -> tuple[int, Override]:
        """What a layer makes: the base's product, and what the experts add."""
        activation = program.equations[layer.equation].inputs[layer.product.live]
        plain = program.rename(layer.made)

        def mixed(made: Array, activation: Array) -> Array:
            added = run_experts(experts, layer.product.read(activation), self.top_k)
            return made + jax.linear_transpose(layer.product.made, made)(added.astype(made.dtype))[0]

        return layer.made, Override((plain, activation), mixed)


def smile_apply(apply_fn: ApplyFn, *, top_k: int = 1) -> SmileNetwork:
    """The function of a network that `smile` made, from the function of the networks it was made of.

    Args:
        apply_fn: the networks' function.
        top_k: as it was in `smile`.
    """
    return SmileNetwork(apply_fn, top_k)


@factory
def smile(
    *,
    rank: Count | None = 32,
    gate_k: Count = 16,
    top_k: Count = 1,
    gate: Literal["delta", "weight"] = "delta",
) -> Method:
    """Give every linear layer of the base an expert for each network, and let the input choose among them:

    `y = W0 x + b0 + sum_k w_k(x) (U_k S_k V_k^T x + b_k - b0)`, `U_k S_k V_k^T` the best approximation of
    `W_k - W0` of a rank; `w` is the softmax of `||V_k[:, :gate_k]^T x||` over the networks, of which the
    `top_k` largest are kept and divided by their sum.

    Args:
        rank: of the experts, >= 1; all of `W_k - W0` for None.
        gate_k: how many right singular vectors the gate looks at, >= 1.
        top_k: how many experts count, >= 1; all where there are no more.
        gate: whose singular vectors these are: `"delta"`, of `W_k - W0`; `"weight"`, of `W_k`.

    Returns:
        A method for any number of networks; needs `base`, an `apply_fn`, no spec, and inputs only for
        their shape. Each product of an activation with a weight that is used once is a linear layer; a
        convolution reads patches, and every patch has a gate of its own. All other leaves are averaged.
        `params` is `{"network": the networks' tree, "experts": {path of a weight: arrays}}`;
        `smile_apply` makes the `apply_fn` again. `diagnostics["num_params"]` counts its numbers.

    Raises:
        ValueError: an option is out of its range, or no linear layer was changed by fine-tuning.

    References:
        Tang, Shen, Luo, Xie, Hu, Zhang, Du, Tao: SMILE: zero-shot sparse mixture of low-rank experts
        construction from pre-trained foundation models, 2024.

    Example:
        >>> import autofusion_jax as af
        >>> base = {"w": jnp.zeros((2, 2))}
        >>> models = [{"w": jnp.diag(jnp.array([1.0, 0.0]))}, {"w": jnp.diag(jnp.array([0.0, 5.0]))}]
        >>> result = af.merge_many(
        ...     models, None, jnp.ones((1, 2)), base=base, apply_fn=lambda p, x: x @ p["w"],
        ...     method="smile", rank=1, gate_k=1,
        ... )
        >>> result.apply_fn(result.params, jnp.array([[3.0, 2.0], [2.0, 3.0]])).round(4).tolist()
        [[3.0, 0.0], [0.0, 15.0]]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        params = _upscaled(task, rank, gate_k, gate)
        result = aligned_result(task, params, diagnostics={"num_params": num_params(params)})
        network = smile_apply(task.require_apply_fn(), top_k=top_k)
        return dataclasses.replace(result, apply_fn=network, alignments=())

    return Method(
        "smile",
        run,
        uses_key=False,
        max_models=None,
        assumes_aligned=True,
        needs_base=True,
        changes_program=True,
    )


def _upscaled(task: MergeTask, rank: int | None, gate_k: int, gate: str) -> dict[str, Any]:
    """The parameters of the upscaled network; layers that nobody trained get no experts."""
    apply_fn, origin, x = task.require_apply_fn(), task.require_base(), task.require_x()[:1]
    layers = _find_layers(apply_fn, origin, x)
    base, models = flatten_by_path(origin), [flatten_by_path(params) for params in task.models]
    trained = [layer for layer in layers.layers if _is_trained(layer, base, models)]
    found = ", ".join(layer.weight for layer in layers.layers) or "none was found"
    require(
        bool(trained), "smile", "linear layers", "changed by fine-tuning, one at least", f"none of: {found}"
    )
    weights = tuple(layer.weight for layer in trained)
    return _build(apply_fn, weights, rank, gate_k, gate, origin, task.models, x)


def _find_layers(apply_fn: ApplyFn, params: Params, x: Array) -> LinearLayers:
    return LinearLayers(
        FlatProgram(trace_program(apply_fn, params, x, caller="smile")), params, raw_inputs=True
    )


@jit_by_network(static_argnames=("trained", "rank", "gate_k", "gate"))
def _build(
    apply_fn: ApplyFn, trained: tuple[str, ...], rank: int | None, gate_k: int, gate: str,
    origin: Params, networks: Sequence[Params], x: Array,
) -> dict[str, Any]:  # fmt: skip
    """Average what is not trained, and split the other layers into experts; of x only the shape counts."""
    layers = _find_layers(apply_fn, origin, x)
    base, models = flatten_by_path(origin), [flatten_by_path(params) for params in networks]
    leaves, experts = average(models, [1 / len(models)] * len(models)), {}
    for layer in layers.layers:
        if layer.weight not in trained:
            continue
        bias = None if layer.bias is None else layer.bias.leaf
        first, *tuned = (layers.matrices(layer, params[layer.weight]) for params in (base, *models))
        expert = low_rank_experts(first, jnp.stack(tuned), rank=rank, gate_k=gate_k, gate=gate)
        leaves[layer.weight] = base[layer.weight]
        if bias is not None and base[bias].size == first.shape[0] * first.shape[2]:
            added = [_made_by(layers, layer, params[bias] - base[bias]) for params in models]
            expert["bias"] = jnp.stack(added)
            leaves[bias] = base[bias]
        experts[layer.weight] = expert
    return {"network": unflatten_like(origin, leaves), "experts": experts}


def _is_trained(layer: LinearLayer, base: dict[str, Array], models: Sequence[dict[str, Array]]) -> bool:
    return any(not np.array_equal(params[layer.weight], base[layer.weight]) for params in models)


def _made_by(layers: LinearLayers, layer: LinearLayer, bias: Array) -> Inexact[Array, "B F"]:
    """What a bias leaf adds to what its layer makes: `layers.shift` undone, which reorders numbers."""
    batch, _, free = layer.product.sizes
    _, back = jax.vjp(lambda made: layers.shift(layer, made), jnp.zeros((batch, free), bias.dtype))
    return back(bias)[0]


@functools.partial(jax.jit, static_argnames=("rank", "gate_k", "gate"))
def low_rank_experts(
    base: Inexact[Array, "B C F"],
    tuned: Inexact[Array, "models B C F"],
    *,
    rank: int | None,
    gate_k: int,
    gate: str = "delta",
) -> dict[str, Array]:
    """Split what fine-tuning changed in a layer into experts by singular value decompositions.

    Args:
        base: the base's matrices, which multiply what the layer reads from the right.
        tuned: those of the fine-tuned networks.
        rank: of the experts, at most the smaller of C and F; None: dense ones.
        gate_k: how many singular vectors on the side of the input the gate looks at, at most so many.
        gate: whose these are: `"delta"`, of the difference to the base; `"weight"`, of the tuned matrices;
            zero for singular values of zero.

    Returns:
        `gate [models, B, C, gate_k]`; and `down [models, B, C, rank]` with `up [models, B, rank, F]`, or
        `dense [models, B, C, F]`.

    Example:
        >>> found = low_rank_experts(jnp.zeros((1, 3, 2)), jnp.ones((4, 1, 3, 2)), rank=1, gate_k=2)
        >>> {name: array.shape for name, array in found.items()}
        {'down': (4, 1, 3, 1), 'gate': (4, 1, 3, 2), 'up': (4, 1, 1, 2)}
    """
    dtype, base, tuned = base.dtype, wide(base), wide(tuned)
    delta = tuned - base
    read, sizes, made = thin_svd(delta)
    seen, seen_sizes = (read, sizes) if gate == "delta" else thin_svd(tuned)[:2]
    # a network that changed nothing, or less than a rank, has no vectors that an input could be like
    seen = seen * significant(seen_sizes, base.shape[-2:])[..., None, :]
    found = {"gate": seen[..., :gate_k]}
    if rank is None:
        found |= {"dense": delta}
    else:
        found |= {"down": read[..., :rank] * sizes[..., None, :rank], "up": made[..., :rank, :]}
    return {name: array.astype(dtype) for name, array in found.items()}


def expert_weights(
    gate: Inexact[Array, "models B C gate_k"], read: Inexact[Array, "S B C"], top_k: int
) -> Float[Array, "S B models"]:
    """How much each expert counts for each sample: the `top_k` largest of a softmax, divided by their sum.

    Args:
        gate: singular vectors of each expert; its score is the length of the input's projection on them.
        read: what the layer reads.
        top_k: how many experts count; all where there are no more.

    Example:
        >>> gate = jnp.eye(2)[:, None, :, None]  # each of two experts looks at one of two inputs
        >>> expert_weights(gate, jnp.array([[[3.0, 1.0]], [[0.0, 2.0]]]), 1)[:, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    scores = jnp.linalg.norm(jnp.einsum("sbc,nbck->sbnk", wide(read), gate), axis=-1)
    kept, chosen = jax.lax.top_k(jax.nn.softmax(scores), min(top_k, scores.shape[-1]))
    kept = kept / kept.sum(-1, keepdims=True)
    return (jax.nn.one_hot(chosen, scores.shape[-1]) * kept[..., None]).sum(-2)


def run_experts(
    experts: dict[str, Array], read: Inexact[Array, "S B C"], top_k: int
) -> Inexact[Array, "S B F"]:
    """What the chosen experts make of what a layer reads.

    Every expert runs on every sample: nothing is skipped, so that shapes do not depend on values.

    Args:
        experts: of `low_rank_experts`; and `bias [models, B, F]`, if the layer has one.
        read: what the layer reads.
        top_k: see `expert_weights`.
    """
    read = wide(read)
    weights = expert_weights(experts["gate"], read, top_k)
    if "dense" in experts:
        made = jnp.einsum("sbc,nbcf,sbn->sbf", read, experts["dense"], weights)
    else:
        low = jnp.einsum("sbc,nbcr->sbnr", read, experts["down"])
        made = jnp.einsum("sbnr,sbn,nbrf->sbf", low, weights, experts["up"])
    return made + jnp.einsum("sbn,nbf->sbf", weights, experts["bias"]) if "bias" in experts else made
