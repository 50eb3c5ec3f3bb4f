"""Low-rank experts of one linear layer, and how its input chooses among them."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from autofusion_jax.merging.task_vectors.svd import thin_svd


@functools.partial(jax.jit, static_argnames=("rank", "gate_k", "gate"))
def low_rank_experts(
    base: Float[Array, "B C F"],
    tuned: Float[Array, "models B C F"],
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
        gate: whose these are: `"delta"`, of the difference to the base; `"weight"`, of the tuned matrices.

    Returns:
        `gate [models, B, C, gate_k]`; and `down [models, B, C, rank]` with `up [models, B, rank, F]`, or
        `dense [models, B, C, F]`.

    Example:
        >>> found = low_rank_experts(jnp.zeros((1, 3, 2)), jnp.ones((4, 1, 3, 2)), rank=1, gate_k=2)
        >>> {name: array.shape for name, array in found.items()}
        {'down': (4, 1, 3, 1), 'gate': (4, 1, 3, 2), 'up': (4, 1, 1, 2)}
    """
    delta = tuned - base
    read, sizes, made = thin_svd(delta)
    seen = read if gate == "delta" else thin_svd(tuned)[0]
    found = {"gate": seen[..., :gate_k]}
    if rank is None:
        return found | {"dense": delta}
    down = read[..., :rank] * sizes[..., None, :rank]
    return found | {"down": down, "up": made[..., :rank, :]}


def expert_weights(
    gate: Float[Array, "models B C gate_k"], read: Float[Array, "S B C"], top_k: int
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
    scores = jnp.linalg.norm(jnp.einsum("sbc,nbck->sbnk", read, gate), axis=-1)
    kept, chosen = jax.lax.top_k(jax.nn.softmax(scores), min(top_k, scores.shape[-1]))
    kept = kept / kept.sum(-1, keepdims=True)
    return (jax.nn.one_hot(chosen, scores.shape[-1]) * kept[..., None]).sum(-2)


def run_experts(experts: dict[str, Array], read: Float[Array, "S B C"], top_k: int) -> Float[Array, "S B F"]:
    """What the chosen experts make of what a layer reads.

    Every expert runs on every sample: nothing is skipped, so that shapes do not depend on values.

    Args:
        experts: of `low_rank_experts`; and `bias [models, B, F]`, if the layer has one.
        read: what the layer reads.
        top_k: see `expert_weights`.
    """
    weights = expert_weights(experts["gate"], read, top_k)
    if "dense" in experts:
        made = jnp.einsum("sbc,nbcf,sbn->sbf", read, experts["dense"], weights)
    else:
        low = jnp.einsum("sbc,nbcr->sbnr", read, experts["down"])
        made = jnp.einsum("sbnr,sbn,nbrf->sbf", low, weights, experts["up"])
    return made + jnp.einsum("sbn,nbf->sbf", weights, experts["bias"]) if "bias" in experts else made
