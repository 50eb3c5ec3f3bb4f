"""Fisher merging: every parameter counts as much as the network's outputs depend on it."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from autofusion_jax.arguments import Count, NonNegativeWeights, Positive, Pytrees
from autofusion_jax.merging.averaging.fisher_information import (
    Predictions,
    batch_summed_fisher,
    diagonal_fisher,
)
from autofusion_jax.merging.ensembles.members import logits_shape
from autofusion_jax.merging.leafwise import aligned_result, kept, merge_leaves, shared
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.per_model_inputs import Batches, inputs_of_each
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.weights import weights_for
from autofusion_jax.precision import length, weighted_sum, widened
from autofusion_jax.trees import check_finite, flatten_by_path
from autofusion_jax.types import Params
from autofusion_jax.validation import require


@factory
def fisher(
    *,
    weights: NonNegativeWeights | None = None,
    fishers: Pytrees | None = None,
    inputs: Batches | None = None,
    predictions: Predictions = "expectation",
    normalize: bool = False,
    min_fisher: Positive = 1e-6,
    batch_size: Count = 32,
    variant: Literal["paper", "fusionbench"] = "paper",
) -> Method:
    r"""Average every parameter with its Fisher information as the weight:

    `sum_k c_k (F_k + eps) params_k / sum_k c_k (F_k + eps)`, entry by entry, `F_k` the diagonal of the
    Fisher information of network k, `eps` = `min_fisher`. Labels are used where there are any; a
    network is then judged by the labels of all inputs, also of tasks that it does not know, unless
    `inputs` gives it its own.

    Args:
        weights: `c_k`, one for each network, >= 0, with a sum above 0; all the same if left out.
        fishers: `F_k`, one for each network, in its structure, if they are known; with `align`, those of
            the aligned networks. Nothing is run then.
        inputs: inputs `[N, ...]` or pairs `(x, y)`, one for each network, where their data differ; the
            batch of the merge for all if left out.
        predictions: what stands for labels: `"expectation"` over the classes as the network predicts
            them, which is the Fisher information and costs one backward pass for every class; or
            `"argmax"`, the predicted class alone: one pass, near the other where networks are sure.
        normalize: divide `c_k` by the length of `F_k`, as FusionBench does unless told otherwise, so
            that no network counts more because it is less sure.
        min_fisher: `eps`, > 0: where no network depends on a parameter, the average is taken.
        batch_size: how many inputs are held at once, each with gradients as large as all leaves but the
            weights of dense layers that read one vector for each input, >= 1.
        variant: `"paper"`, or `"fusionbench"`, where gradients are added within batches of `batch_size`
            inputs before they are squared, without labels. See `batch_summed_fisher`.

    Returns:
        A method for any number of networks; needs an `apply_fn`, but no spec. `diagnostics` has the
        `norms` of all `F_k`. `fisher_average` is its formula as a pure function, vmap-able over
        `weights` and `min_fisher`; `diagonal_fisher` measures.

    Raises:
        ValueError: an option is out of its range; when it runs, there are not as many `weights`,
            `fishers` or `inputs` as networks, or they do not fit the networks; or the networks give
            other than one vector of logits for every input.

    References:
        Matena, Raffel: Merging models with Fisher-weighted averaging, NeurIPS 2022.

    Example:
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([5.0, 5.0])}]
        >>> known = [{"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, 0.0])}]
        >>> result = af.merge_many(models, None, None, method="fisher", fishers=known)
        >>> [round(value, 3) for value in result.params["w"].tolist()]
        [2.0, 3.0]
    """

    def measure(task: MergeTask) -> list[Params]:
        apply_fn = task.require_apply_fn()
        batches = inputs_of_each("fisher", task, inputs)
        _check_outputs(dataclasses.replace(task, x=batches[0][0]))
        each = zip(task.models, batches)
        if variant == "fusionbench":
            return [batch_summed_fisher(apply_fn, p, x, batch_size=batch_size) for p, (x, _) in each]
        how = {"predictions": predictions, "batch_size": batch_size}
        return [diagonal_fisher(apply_fn, params, x, y, **how) for params, (x, y) in each]

    def run(task: MergeTask, key: Array) -> MergeResult:
        each = weights_for("fisher", weights, len(task.models))
        known = measure(task) if fishers is None else _checked(task, fishers)
        for number, of_network in enumerate(known):
            check_finite("fisher", f"the Fisher information of models[{number}]", of_network)
        norms = fisher_norms(known)
        shares = jnp.asarray(each) / (norms + min_fisher if normalize else 1)
        params = fisher_average(task.models, known, shares / shares.sum(), min_fisher)
        return aligned_result(task, params, weights=each, diagnostics={"norms": np.asarray(norms)})

    return Method("fisher", run, uses_key=False, max_models=None, assumes_aligned=True)


@jax.jit
def fisher_average(
    models: Sequence[Params],
    fishers: Sequence[Params],
    weights: Float[Array, " models"],
    min_fisher: float | Float[Array, ""],
) -> Params:
    """`sum_k weights[k] (F_k + min_fisher) models[k] / sum_k weights[k] (F_k + min_fisher)`, by entry.

    Example:
        >>> models = [{"w": jnp.array([0.0])}, {"w": jnp.array([4.0])}]
        >>> fishers = [{"w": jnp.array([3.0])}, {"w": jnp.array([1.0])}]
        >>> shares = jnp.array([[0.5, 0.5], [0.0, 1.0]])
        >>> jax.vmap(fisher_average, (None, None, 0, None))(models, fishers, shares, 0.0)["w"].tolist()
        [[1.0], [4.0]]
    """
    num = len(models)

    def leaf(*values: Array) -> Array:
        values, known = values[:num], values[num:]
        counts = jnp.stack([weight * (value + min_fisher) for weight, value in zip(weights, known)])
        fallback = jnp.reshape(weights, (num, *(1,) * (counts.ndim - 1)))
        # relative to the largest of an entry they neither overflow nor vanish; where all are 0 weights count
        largest = jnp.max(counts, 0)
        counts = jnp.where(largest > 0, counts / jnp.where(largest > 0, largest, 1), fallback)
        return kept(shared(values), values[0], weighted_sum(counts / jnp.sum(counts, 0), values))

    return merge_leaves(leaf, [*models, *fishers])


@jax.jit
def fisher_norms(fishers: Sequence[Params]) -> Float[Array, " models"]:
    """The length of every diagonal, over all parameters."""
    leaves = [[length(widened(leaf)) for leaf in jax.tree.leaves(known)] for known in fishers]
    return jnp.stack([length(jnp.stack(each)) for each in leaves])


def _check_outputs(task: MergeTask) -> None:
    shape = logits_shape("fisher", task)
    require(
        len(shape) == 1 and shape[0] > 1, "fisher", "the networks' output",
        "one vector of logits of two or more classes for every input", f"shape {list(shape)}",
        "Give fishers=[...] for other networks.",
    )  # fmt: skip


def _checked(task: MergeTask, fishers: Sequence[Params]) -> list[Params]:
    """Fishers as the user gave them, if they fit the networks."""
    num = len(task.models)
    require(len(fishers) == num, "fisher", "fishers", f"{num} pytrees, one for each network", len(fishers))
    shapes = {path: np.shape(leaf) for path, leaf in flatten_by_path(task.models[0]).items()}
    for number, known in enumerate(fishers):
        leaves, name = flatten_by_path(known), f"fishers[{number}]"
        paths = [path for path in {**shapes, **leaves} if (path in shapes) != (path in leaves)]
        require(
            not paths, "fisher", name, "a pytree of the networks' structure", f"other leaves: {paths[:3]}"
        )
        for path, leaf in leaves.items():
            where = f"{name}[{path!r}]"
            require(
                np.shape(leaf) == shapes[path], "fisher", where, f"of shape {shapes[path]}", np.shape(leaf)
            )
            values = np.asarray(widened(leaf))
            good = bool(np.isfinite(values).all() and (values >= 0).all())
            require(
                good, "fisher", where, "finite and 0 or more", f"least {values.min()}, most {values.max()}"
            )
    return list(fishers)
