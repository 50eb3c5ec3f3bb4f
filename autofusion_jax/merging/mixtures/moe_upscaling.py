"""Sparse upcycling: a network whose blocks become mixtures of copies of themselves."""

from jax import Array

from autofusion_jax.arguments import Count
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.module_blocks import MLP_BLOCKS
from autofusion_jax.merging.mixtures.moe import check_experts, mixture_of
from autofusion_jax.merging.result import MergeResult


@factory
def moe_upscaling(
    *, num_experts: Count = 8, experts_per_token: Count = 2, blocks: str = MLP_BLOCKS
) -> Method:
    """Make every block a mixture of copies of itself, to be trained further:

    `block(h) = sum_e share_e(h) expert_e(h)`, where `share(h)` is the softmax over the k largest of
    `h @ router`, the router drawn from `N(0, 0.02^2)`, and every expert starts as the block itself. The
    shares add up to 1, so that the network's function is at first its own.

    Args:
        num_experts: copies of every block, >= 1.
        experts_per_token: k, how many experts have a share at every position, >= 1; no more than there are.
        blocks: a pattern of the paths of the blocks' leaves, in which `*` stands for anything and `{}` for
            the number or name of a block.

    Returns:
        A method for one network; of several it takes the first. It needs inputs (one is enough) and an
        `apply_fn`. The result's `params` are `{"network": ..., "router": ...}`: the network's own, in
        which the blocks' leaves have a leading axis `[num_experts]`, and a `kernel [d, num_experts]`
        for every block. `moe_apply` makes its `apply_fn` again. `diagnostics` counts all numbers
        (`num_params`) and those that have a part in one position's output (`num_active`).

    Raises:
        ValueError: an option is out of its range; no block is found, or it does not read and make one value.

    References:
        Komatsuzaki, Puigcerver, Lee-Thorp, Riquelme Ruiz, Mustafa, Ainslie, Tay, Dehghani, Houlsby: Sparse
        upcycling: training mixture-of-experts from dense checkpoints, ICLR 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> params, x = {"mlp": jnp.eye(2)}, jnp.array([[1.0, 2.0]])
        >>> apply_fn = lambda p, x: jnp.maximum(x, 0) @ p["mlp"]
        >>> options = {"apply_fn": apply_fn, "num_experts": 4, "blocks": "mlp"}
        >>> result = af.merge_many([params], None, x, method="moe_upscaling", **options)
        >>> result.params["network"]["mlp"].shape, result.diagnostics
        ((4, 2, 2), {'num_params': 24, 'num_active': 16})
    """
    check_experts("moe_upscaling", num_experts, experts_per_token, "num_experts")

    def run(task: MergeTask, key: Array) -> MergeResult:
        network = task.models[0]
        return mixture_of(
            "moe_upscaling", task, key, network, [network] * num_experts, blocks, experts_per_token
        )

    return Method("moe_upscaling", run, max_models=None, min_models=1, changes_program=True)
