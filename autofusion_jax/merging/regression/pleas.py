"""PLeaS: permute, then fit every linear layer of the merged network by least squares."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float

from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.matching.activation_matching import activation_matching
from autofusion_jax.merging.matching.weight_matching import weight_matching
from autofusion_jax.merging.regression.layers import LinearLayer, LinearLayers
from autofusion_jax.merging.regression.products import product
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.similarity import BATCH_SIZE
from autofusion_jax.symmetry.flat import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_perm
from autofusion_jax.transport.moments import Moments, stream_moments
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

MATCHINGS = {"activation_matching": activation_matching, "weight_matching": weight_matching}

MAX_NUMBERS = 2**25
"""How many numbers of a batch all layers together may read."""


def pleas(*, matching: str = "weight_matching", ridge: float = 1e-2) -> Method:
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

    Returns:
        The method. `diagnostics` has what the matching says, and the paths of the leaves that
        were `fitted` and those that were only `averaged`.

    Raises:
        ValueError: unknown matching, or ridge out of range.

    References:
        Nasery, Hayase, Koh, Oh: PLeaS - Merging models with permutations and least squares,
        CVPR 2025.
    """
    if matching not in MATCHINGS:
        raise unknown_name("pleas", "matching", matching, MATCHINGS)
    require(ridge > 0, "pleas", "ridge", "> 0", ridge)
    matcher = MATCHINGS[matching]()

    def run(task: MergeTask) -> list[MergeResult]:
        return [_fitted(task, result, ridge) for result in matcher.run(task)]

    return Method("pleas", run, uses_key=matcher.uses_key)


def _fitted(task: MergeTask, matched: MergeResult, ridge: float) -> MergeResult:
    spec, (params_a, params_b) = task.spec, task.models
    models = (params_a, apply_perm(spec, params_b, matched.perms))
    weights = (0.5, 0.5)
    leaves = flatten_by_path(average(models, weights))
    changed = fit_layers(spec, models, task.inputs, ridge)
    params = unflatten_like(params_a, leaves | changed)
    diagnostics = {
        **matched.diagnostics,
        "fitted": list(changed),
        "averaged": [path for path in leaves if path not in changed],
    }
    num_learned = sum(int(np.size(leaf)) for leaf in changed.values())
    return MergeResult(
        params, task.apply_fn, matched.perms, matched.alignments, weights,
        diagnostics=diagnostics, num_learned=num_learned,
    )  # fmt: skip


def fit_layers(
    spec: PermSpec, models: tuple[Params, Params], x: Float[Array, "N ..."], ridge: float
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
    moments = _moments(spec, models, x, linear.layers)
    a, b = (flatten_by_path(params) for params in models)
    fitted: dict[str, Array] = {}
    for layer in linear.layers:
        half = np.asarray(linear.matrices(layer, (a[layer.weight] - b[layer.weight]) / 2), np.float64)
        change, shift = _solve(moments[layer.weight], half, layer.bias is not None, ridge)
        changes = {layer.weight: linear.weight(layer, jnp.asarray(change, jnp.float32))}
        if layer.bias is not None:
            changes[layer.bias.leaf] = linear.shift(layer, jnp.asarray(shift, jnp.float32))
        for path, delta in changes.items():
            fitted[path] = ((a[path] + b[path]) / 2 + delta).astype(a[path].dtype)
    return fitted


def _moments(
    spec: PermSpec, models: tuple[Params, Params], x: Array, layers: Sequence[LinearLayer]
) -> dict[str, Moments]:
    """By weight, the moments of `(z, d)`: half the sum and half the difference of what both networks read."""

    def capture(models: tuple[Params, Params], batch: Array) -> dict[str, tuple[Array, int]]:
        program = flatten_program(spec, models[0], batch, caller="pleas")
        equations = [program.equations[layer.equation] for layer in layers]
        wanted = [eqn.inputs[layer.product.live] for eqn, layer in zip(equations, layers)]
        values = dict(zip(program.inputs, jax.tree.leaves(batch)))
        both = []
        for params in models:
            leaves = flatten_by_path(params)
            known = values | {number: leaves[path] for path, number in program.leaves.items()}
            both.append(program.evaluate(wanted, known))
        read = {}
        for layer, equation, a, b in zip(layers, equations, *both):
            seen = product(equation.eqn, layer.product.live)
            assert seen is not None
            read[layer.weight] = jnp.stack([seen.read((a + b) / 2), seen.read((a - b) / 2)]), 1
        return read

    if not layers:
        return {}
    shapes = jax.eval_shape(lambda: {name: read[0] for name, read in capture(models, x[:2]).items()})
    per_input = max(sum(shape.size for shape in shapes.values()) // len(x[:2]), 1)
    size = min(max(MAX_NUMBERS // per_input, 1), BATCH_SIZE)
    batches = [x[start : start + size] for start in range(0, len(x), size)]
    return stream_moments(Partial(capture, models), batches)


def _solve(moments: Moments, half: np.ndarray, centred: bool, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The change `[B, C, F]` of the average weights and `[B, F]` of the average bias.

    Args:
        moments: those of `(z, d)`, over the samples.
        half: `D`, half the difference of the weights, `[B, C, F]`.
        centred: whether there is a bias.
        ridge: as in `pleas`.
    """
    second = np.asarray(moments.cov if centred else moments.second_moment(), np.float64)
    mean_z, mean_d = np.asarray(moments.mean, np.float64)  # [B, C] each
    count = mean_z.shape[-1]
    gram, cross = second[:, :count, :count], second[:, :count, count:]  # z z^T, z d^T
    scale = np.trace(gram, axis1=-2, axis2=-1) / count
    damping = ridge * np.where(scale > 0, scale, 1)[:, None, None] * np.eye(count)
    change = np.linalg.solve(gram + damping, cross @ half)
    shift = np.einsum("bc,bcf->bf", mean_d, half) - np.einsum("bc,bcf->bf", mean_z, change)
    return change, shift
