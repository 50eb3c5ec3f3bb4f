"""Keep the units of each network that vary most, side by side; fit every layer by least squares."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.arguments import Positive
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.regression.heads import fit_labelled_head
from autofusion_jax.merging.regression.layerwise import Layerwise
from autofusion_jax.merging.regression.least_squares import as_leaves, ridge_regression
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.regression.selection import as_matrices, numbers_of_units, select_units
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.teachers import PseudoLabels
from autofusion_jax.merging.zipping.combine import produced_parts, split_by_model, zip_models
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.program import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params, SoftPerms


@factory
def prune_concat(*, pseudo_labels: PseudoLabels | None = "em", ridge: Positive = 1e-2) -> Method:
    r"""Keep the units of N networks that vary most, side by side, and fit each layer to them.

    Of every group of `n` units each network keeps the `n / N` that vary most on the inputs (see
    `selection.select_units`), those of A first. With the selection matrices `M_k` the merged
    network starts as `sum_k M_k W_k M_k^T`: N narrow networks that do not hear of each other. Then,
    layer by layer in the order of the program, the weight and the bias are fitted so that every
    kept unit is what it is in its own network, made from what the merged network, with all layers
    before already fitted, reads there:

        `argmin_{W, b} E |W z + b - sum_k M_k (W_k h_k + b_k)|^2 + lambda |W - W_start|^2`

    `h_k` is what network k reads. No unit is matched with any other, so N may be any number.

    Left as they are selected: the first layer, which reads the inputs and is exact; norms,
    embeddings, weights that are used twice or inside of a loop, grouped convolutions and products
    per unit of a group. Statistics of BatchNorm are those of the kept units; `correction=
    "reset_norm"` measures them again.

    Units of an outer group (heads, groups of a GroupNorm) are kept whole, with all that is nested
    in them. Where `N` does not divide `n` the first networks keep one unit more; where `n < N` the
    last ones keep none, and what they know there is left to the regression.

    A layer that makes no group, as the head, is fitted to the mean of what the networks make. With
    `pseudo_labels` the head is fitted to labels instead (see `heads.fit_head`), if the network's
    one output `[N, classes]` is made by a linear layer; else the mean remains its target.

    Args:
        pseudo_labels: the teacher whose labels the head learns, `"em"`, `"z"` or `"confidence"`; real
            labels take their place if there are any beside the inputs. None: the head is fitted to
            the mean of the networks' outputs, and labels are not used.
        ridge: `lambda`, > 0, in units of the mean square of what a layer reads.

    Returns:
        The method. `diagnostics` has the number of `units` that each network keeps of every group;
        for each fitted weight the `residuals`, the mean square of what its units lack before and
        after the fit, on the inputs; what the `head` was fitted to: `"labels"`, the teacher's name
        or `"mean"`; and the leaves that were `fitted`, and those that were only `selected`.

    Raises:
        ValueError: unknown pseudo-labels, or ridge out of range.

    References:
        The target of the regression, with matched units: Nasery, Hayase, Koh, Oh: PLeaS - Merging
        models with permutations and least squares, CVPR 2025.

    Example:
        >>> prune_concat(pseudo_labels="z", ridge=0.1).name
        'prune_concat'
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return _merged(task, pseudo_labels, ridge)

    return Method("prune_concat", run, uses_key=False, max_models=None)


def _merged(task: MergeTask, pseudo_labels: str | None, ridge: float) -> MergeResult:
    spec, models, x = task.require_perm_spec(), task.models, task.require_x()
    kept = select_units(spec, models, x)
    merge, unmerge = as_matrices(kept)
    start = zip_models(spec, models, merge, unmerge)
    linear = LinearLayers(flatten_program(spec, start, x[:2], caller="prune_concat"), start)
    parts = produced_parts(spec, models, merge)
    layers = [
        layer
        for layer in _of_whole_units(spec, linear, start, merge, len(models))
        if pseudo_labels is None or layer is not linear.head
    ]
    leaves = flatten_by_path(start)
    fitted, residuals = fit_in_order(linear, Layerwise(spec, models, parts, x, layers), leaves, layers, ridge)
    params = unflatten_like(start, leaves | fitted)
    head, taught_by = fit_labelled_head("prune_concat", task, linear, params, pseudo_labels, ridge)
    fitted |= head
    diagnostics = {
        "units": numbers_of_units(kept),
        "residuals": residuals,
        "head": taught_by,
        "fitted": list(fitted),
        "selected": [path for path in leaves if path not in fitted],
    }
    return MergeResult(
        unflatten_like(start, leaves | fitted),
        task.apply_fn,
        alignments=tuple(split_by_model(len(models), merge, unmerge)[0]),
        weights=(1.0,) * len(models),
        diagnostics=diagnostics,
        num_learned=sum(int(np.size(leaf)) for leaf in fitted.values()),
    )


def fit_in_order(
    linear: LinearLayers,
    walk: Layerwise,
    leaves: Mapping[str, Array],
    layers: Sequence[LinearLayer],
    ridge: float,
) -> tuple[dict[str, Array], dict[str, tuple[float, float]]]:
    """Fit layers one after the other, each on what the merged network reads after those before.

    Args:
        linear: the linear layers of the program.
        walk: the networks and the merged one, at the inputs.
        leaves: path -> leaf of the merged network.
        layers: which layers, in the order of the program.
        ridge: as in `prune_concat`.

    Returns:
        Path -> leaf, for all that were fitted; and for each weight, the mean square of what the
        layer's units lack before and after.
    """
    fitted: dict[str, Array] = {}
    residuals = {}
    for layer in layers:
        # Read after the layers before were fitted: what these lack, this layer can still make up for.
        moments = walk.moments(layer, {**leaves, **fitted})
        num_read, centred = layer.product.sizes[1], layer.bias is not None
        real = not jnp.iscomplexobj(leaves[layer.weight])
        fit = ridge_regression(moments, num_read, centred=centred, ridge=ridge, real=real)
        for path, change in as_leaves(linear, layer, fit).items():
            fitted[path] = (wide(leaves[path]) + change).astype(leaves[path].dtype)
        residuals[layer.weight] = (fit.before, fit.after)
    return fitted, residuals


def _of_whole_units(
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
