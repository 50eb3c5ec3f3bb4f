"""Keep the units of each network that vary most, side by side; fit every layer by least squares."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from autofusion_jax.merging.regression.heads import check_pseudo_labels, find_labels, fit_head
from autofusion_jax.merging.regression.layers import LinearLayer, LinearLayers
from autofusion_jax.merging.regression.layerwise import Layerwise
from autofusion_jax.merging.regression.least_squares import as_leaves, ridge_regression
from autofusion_jax.merging.regression.selection import as_matrices, numbers_of_units, select_units
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.zipping.combine import produced_parts, split_by_model, zip_models
from autofusion_jax.symmetry.flat import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params, SoftPerms
from autofusion_jax.validation import require


def prune_concat(*, pseudo_labels: str | None = "em", ridge: float = 1e-2) -> Method:
    check_pseudo_labels("prune_concat", pseudo_labels)
    require(ridge > 0, "prune_concat", "ridge", "> 0", ridge)

    def run(task: MergeTask) -> list[MergeResult]:
        return [_merged(task, pseudo_labels, ridge)] * len(task.keys)

    return Method("prune_concat", run, uses_key=False, max_models=None)


def _merged(task: MergeTask, pseudo_labels: str | None, ridge: float) -> MergeResult:
    spec, models, x = task.spec, task.models, task.inputs
    kept = select_units(spec, models, x)
    merge, unmerge = as_matrices(kept)
    start = zip_models(spec, models, merge, unmerge)
    program = flatten_program(spec, start, x[:2], caller="prune_concat")
    linear = LinearLayers(program, start)
    parts = produced_parts(spec, models, merge)
    head = linear.head if pseudo_labels is not None else None
    layers = [layer for layer in _whole_units(spec, linear, start, merge, len(models)) if layer is not head]
    leaves = flatten_by_path(start)
    walk = Layerwise(spec, models, parts, x, layers)
    fitted: dict[str, jax.Array] = {}
    errors = {}
    for layer in layers:
        moments = walk.moments(layer, leaves | fitted)
        num_read, centred = layer.product.sizes[1], layer.bias is not None
        fit = ridge_regression(moments, num_read, centred=centred, ridge=ridge)
        for path, change in as_leaves(linear, layer, fit).items():
            fitted[path] = (leaves[path] + change).astype(leaves[path].dtype)
        errors[layer.weight] = (fit.before, fit.after)
    params = unflatten_like(start, leaves | fitted)
    if head is not None and pseudo_labels is not None:
        labels = find_labels("prune_concat", task, pseudo_labels)
        fitted |= fit_head(spec, linear, params, x, labels, ridge)
        params = unflatten_like(start, leaves | fitted)
    diagnostics = {
        "units": numbers_of_units(kept),
        "errors": errors,
        "head": "mean" if head is None else "labels" if task.y is not None else pseudo_labels,
        "fitted": list(fitted),
        "selected": [path for path in leaves if path not in fitted],
    }
    return MergeResult(
        params, task.apply_fn, alignments=tuple(split_by_model(len(models), merge, unmerge)[0]),
        weights=(1.0,) * len(models), diagnostics=diagnostics,
        num_learned=sum(int(np.size(leaf)) for leaf in fitted.values()),
    )  # fmt: skip


def _whole_units(
    spec: PermSpec, linear: LinearLayers, params: Params, merge: SoftPerms, count: int
) -> Sequence[LinearLayer]:
    """The layers whose products make kept units and fixed places, and do not multiply per unit of a group."""
    rng = np.random.default_rng(0)
    leaves = flatten_by_path(params)
    for layer in linear.layers:
        b, c, f = layer.product.sizes
        same = jnp.asarray(np.broadcast_to(rng.uniform(1, 2, (b, c, 1)), (b, c, f)), jnp.float32)
        leaves[layer.weight] = linear.weight(layer, same).astype(leaves[layer.weight].dtype)
    parts = produced_parts(spec, (unflatten_like(params, leaves),) * count, merge)
    totals = flatten_by_path(jax.tree.map(lambda *leaves: sum(leaves), *parts))
    return [
        layer for layer in linear.layers if np.allclose(totals[layer.weight], leaves[layer.weight], rtol=1e-2)
    ]
