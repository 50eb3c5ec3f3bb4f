"""Branch-Train-MiX: the blocks of all networks side by side as experts, everything else averaged."""

from typing import Literal

from jax import Array

from autofusion_jax.arguments import Count
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.module_blocks import MLP_BLOCKS
from autofusion_jax.merging.mixtures.moe import check_experts, mixture_of
from autofusion_jax.merging.result import MergeResult


@factory
def moe_merging(
    *,
    experts_per_token: Count = 2,
    blocks: str = MLP_BLOCKS,
    variant: Literal["paper", "fusionbench"] = "paper",
) -> Method:
    """Make the blocks of all networks the experts of one, to be trained further:

    `block(h) = sum_k share_k(h) block_k(h)`, where `share(h)` is the softmax over the `experts_per_token`
    largest of `h @ router`, and the router is drawn from `N(0, 0.02^2)`.

    Args:
        experts_per_token: how many experts have a share at every position, >= 1; no more than networks.
        blocks: a pattern of the paths of the blocks' leaves, in which `*` stands for anything and `{}` for
            the number or name of a block.
        variant: `"paper"`: everything else is the average of all networks; `"fusionbench"` (mergekit
            alike): it is the base's.

    Returns:
        A method for any number of networks; needs inputs (one is enough) and an `apply_fn`, and `base` for
        `"fusionbench"`. The result is one of `moe_upscaling`'s kind, with the networks for its copies.

    Raises:
        ValueError: an option is out of its range; no block is found, or it does not read and make one value.

    References:
        Sukhbaatar, Golovneva, Sharma, Xu, Lin, Roziere, Kahn, Li, Yih, Weston, Li: Branch-Train-MiX: mixing
        expert LLMs into a mixture-of-experts LLM, COLM 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"mlp": jnp.eye(2), "bias": jnp.full(2, b)} for b in (1.0, 3.0)]
        >>> apply_fn = lambda p, x: jnp.maximum(x, 0) @ p["mlp"] + p["bias"]
        >>> options = {"apply_fn": apply_fn, "method": "moe_merging", "blocks": "mlp"}
        >>> result = af.merge_many(models, None, jnp.ones((1, 2)), **options)
        >>> result.apply_fn(result.params, jnp.array([[1.0, 2.0]])).tolist()
        [[3.0, 4.0]]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        num = len(task.models)
        check_experts("moe_merging", num, experts_per_token, "the number of networks")
        rest = task.require_base() if variant == "fusionbench" else average(task.models, [1 / num] * num)
        return mixture_of("moe_merging", task, key, rest, task.models, blocks, experts_per_token)

    return Method(
        "moe_merging",
        run,
        max_models=None,
        assumes_aligned=True,
        needs_base=variant == "fusionbench",
        changes_program=True,
    )
