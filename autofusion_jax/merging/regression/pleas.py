"""PLeaS: permute, then fit every linear layer of the merged network by least squares."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Num

from autofusion_jax.arguments import Positive, one_of
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.matching.activation_matching import activation_matching
from autofusion_jax.merging.matching.weight_matching import weight_matching
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.regression.heads import fit_labelled_head
from autofusion_jax.merging.regression.least_squares import (
    as_leaves,
    in_batches,
    numbers_per_input,
    ridge_regression,
    samples_of,
)
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import PseudoLabels
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.moments import stream_moments
from autofusion_jax.symmetry.program import flatten_program, given
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params

MATCHINGS = {"activation_matching": activation_matching, "weight_matching": weight_matching}


@factory
def pleas(
    *,
    matching: Annotated[str, one_of(*MATCHINGS)] = "weight_matching",
    ridge: Positive = 1e-2,
    pseudo_labels: PseudoLabels | None = None,
) -> Method:
    r"""Permute B, then give every linear layer the weights that best make the mean of both outputs.

    A layer of A reads `h_A` and makes `W_A h_A + b_A`; B, permuted, likewise. The merged layer is
    `argmin_{W, b} E |W z + b - y|^2`, where `z` is the mean of what both read and `y` the mean of
    what both make, over the inputs: the head included, whose target is the mean of both outputs.
    With `d = (h_A - h_B) / 2` and `D = (W_A - W_B) / 2` this is
    `W = (W_A + W_B) / 2 + D E[d z^T] (E[z z^T] + ridge I)^-1`, moments about the mean where there
    is a bias. All other leaves (norms, embeddings, the first layer, which reads what is the same
    for both) are averaged. The merged network has the size of one; the paper also widens it.

    Args:
        matching: `"weight_matching"` or `"activation_matching"`, with their defaults.
        ridge: weight of the distance from the average, > 0, in units of the mean square of what
            a layer reads. The authors take a few hundred steps of Adam from the average instead.
        pseudo_labels: None, as published; or `"em"`, `"z"` or `"confidence"`: the head is then fitted
            to this teacher's labels, or to real ones if there are any beside the inputs, on what
            the merged network reads there. See `heads.fit_head`. Needs a linear head that makes
            the one output `[N, classes]`; for other networks nothing changes.

    Returns:
        The method. `diagnostics` has what the matching says, the paths of the leaves that were
        `fitted` and those that were only `averaged`, and what the `head` was fitted to: `"mean"`,
        `"labels"` or the teacher.

    Raises:
        ValueError: unknown matching or pseudo-labels, or ridge out of range.

    References:
        Nasery, Hayase, Koh, Oh: PLeaS - Merging models with permutations and least squares,
        CVPR 2025.
    """
    matcher = MATCHINGS[matching]()

    def run(task: MergeTask, key: Array) -> MergeResult:
        return _fitted(task, matcher.run(task, key), ridge, pseudo_labels)

    return Method("pleas", run, uses_key=matcher.uses_key)


def _fitted(task: MergeTask, matched: MergeResult, ridge: float, pseudo_labels: str | None) -> MergeResult:
    x = task.require_x()
    spec, (params_a, params_b) = task.require_perm_spec(), task.models
    models = (params_a, apply_perm(spec, params_b, matched.perms))
    weights = (0.5, 0.5)
    leaves = flatten_by_path(average(models, weights))
    changed = fit_layers(spec, models, x, ridge)
    params = unflatten_like(params_a, leaves | changed)
    linear = LinearLayers(flatten_program(spec, params, x[:2], caller="pleas"), params)
    head, taught_by = fit_labelled_head("pleas", task, linear, params, pseudo_labels, ridge)
    changed |= head
    diagnostics = {
        **matched.diagnostics,
        "head": taught_by,
        "fitted": list(changed),
        "averaged": [path for path in leaves if path not in changed],
    }
    num_learned = sum(int(np.size(leaf)) for leaf in changed.values())
    return MergeResult(
        unflatten_like(params_a, leaves | changed), task.apply_fn, matched.perms, matched.alignments,
        weights, diagnostics=diagnostics, num_learned=num_learned,
    )  # fmt: skip


def fit_layers(
    spec: PermSpec, models: tuple[Params, Params], x: Num[Array, "N ..."], ridge: float
) -> dict[str, Array]:
    """Fit every linear layer to the mean of what two aligned networks make.

    Args:
        spec: a spec that carries an `apply_fn`.
        models: parameters of both.
        x: inputs.
        ridge: as in `pleas`.

    Returns:
        Path -> leaf, for all that were fitted.
    """
    program = flatten_program(spec, models[0], x[:2], caller="pleas")
    linear = LinearLayers(program, models[0])
    if not linear.layers:
        return {}
    batches = in_batches(x, sum(numbers_per_input(linear.layers, len(x[:2]))))
    moments = stream_moments(Partial(_Samples(spec, linear.layers), models), batches, scaled=True)
    a, b = (flatten_by_path(params) for params in models)
    fitted: dict[str, Array] = {}
    for layer in linear.layers:
        num_read, centred = layer.product.sizes[1], layer.bias is not None
        real = not jnp.iscomplexobj(a[layer.weight])
        change = ridge_regression(moments[layer.weight], num_read, centred=centred, ridge=ridge, real=real)
        for path, delta in as_leaves(linear, layer, change).items():
            fitted[path] = (wide(a[path]) / 2 + wide(b[path]) / 2 + delta).astype(a[path].dtype)
    return fitted


@dataclasses.dataclass(frozen=True)
class _Samples:
    """By weight, `z` and what the average of the weights lacks there, `D d`."""

    spec: PermSpec
    layers: tuple[LinearLayer, ...]

    def __call__(self, models: tuple[Params, Params], batch: Array) -> dict[str, tuple[Array, int]]:
        program = flatten_program(self.spec, models[0], batch, caller="pleas")
        a, b = (program.values(params, batch) for params in models)
        wanted = [program.equations[layer.equation].inputs[layer.product.live] for layer in self.layers]
        reads = zip(*(program.evaluate(wanted, values) for values in (a, b)))
        found = {}
        for layer, number, (read_a, read_b) in zip(self.layers, wanted, reads):
            leaf = program.leaves[layer.weight]
            half = {leaf: a[leaf] / 2 - b[leaf] / 2}
            (lacking,) = program.evaluate([layer.made], half, given({number: read_a / 2 - read_b / 2}))
            product, mean = layer.product, wide(read_a) / 2 + wide(read_b) / 2
            samples = samples_of(product.read(mean), wide(product.made(lacking)))
            found[layer.weight] = samples, 1
        return found
