"""Sinkhorn re-basin: permutations by gradient descent, the ancestor of AutoFusion."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
from jax import Array

from autofusion_jax.arguments import Count, Positive, ShareBelowOne, one_of
from autofusion_jax.merging.autofusion.autofusion import learn_and_fuse
from autofusion_jax.merging.autofusion.optimise import steps_per_epoch
from autofusion_jax.merging.autofusion.options import Options
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import PseudoLabels
from autofusion_jax.symmetry.transform import identity_perms
from autofusion_jax.types import Params

LOSSES = {
    "l2": {"strategy": "align", "layer_weighting": "uniform", "gamma": 0.5},
    "midpoint": {"strategy": "retain", "gamma": 0.5},
    "random": {"strategy": "retain", "gamma": "uniform"},
}
"""Each loss as options of AutoFusion, of which it is one half."""


@factory
def sinkhorn_rebasin(
    *,
    loss: Annotated[str, one_of(*LOSSES)] = "l2",
    tau: Positive = 1.0,
    steps: Count = 300,
    batch_size: Count = 128,
    learning_rate: Positive = 1.0,
    zeta: ShareBelowOne = 0.0,
    pseudo_labels: PseudoLabels = "confidence",
) -> Method:
    """Learn a permutation of every group of B through the Sinkhorn operator, then average.

    The result holds the network with the permutations rounded as `params` and
    `variants["hard"]`, and the one with the soft ones as `variants["soft"]`.

    Args:
        loss: `"l2"`: the squared distance of A's weights to B's permuted ones, without any data;
            `"midpoint"`: the cross-entropy of the network half-way between them; `"random"`: of
            one at a gamma drawn anew at every step.
        tau: temperature of Sinkhorn, > 0.
        steps: gradient steps, >= 1; made up to whole passes over the inputs.
        batch_size: inputs per step, >= 1.
        learning_rate: of Adam at the start, > 0; falls to a hundredth along a cosine.
        zeta: pseudo-labels below this confidence are left out, in [0, 1).
        pseudo_labels: who gives them, `"confidence"`, `"em"` or `"z"`. Given labels are used instead.

    Returns:
        A method for two networks.

    Raises:
        ValueError: unknown loss, or a value out of its range.

    References:
        Guerrero Pena, Medeiros, Dubail, Aminbeidokhti, Granger, Pedersoli: Re-basin via implicit
        Sinkhorn differentiation, CVPR 2023, Eq. 8-10. Gradients here are those of the iterations.
    """
    options = Options(
        tau=tau, batch_size=batch_size, learning_rate=learning_rate, zeta=zeta,
        pseudo_labels=pseudo_labels,
        final_learning_rate=learning_rate / 100, start="random", augment="none", **LOSSES[loss],
    )  # fmt: skip

    def run_repeats(task: MergeTask, keys: Array) -> list[MergeResult]:
        own = task
        if loss == "l2":  # no data: a network that says nothing, on one input
            own = dataclasses.replace(task, apply_fn=_silent, x=jnp.zeros((1, 1)), y=None)
        epochs = -(-steps // steps_per_epoch(options, len(own.require_x())))
        timed = dataclasses.replace(options, epochs=epochs)
        return [_rounded(task, result) for result in learn_and_fuse("sinkhorn_rebasin", timed, own, keys)]

    def run(task: MergeTask, key: Array) -> MergeResult:
        return run_repeats(task, key[None])[0]

    return Method("sinkhorn_rebasin", run, run_repeats)


def _silent(params: Params, x: Array) -> Array:
    return jnp.zeros((len(x), 1))


def _rounded(task: MergeTask, result: MergeResult) -> MergeResult:
    return dataclasses.replace(
        result,
        params=result.variants["hard"],
        apply_fn=task.apply_fn,
        alignments=(identity_perms(task.require_perm_spec()), result.perms),
    )
