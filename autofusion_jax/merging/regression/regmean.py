"""RegMean: every linear layer makes of each network's inputs what that network made of them."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float, Inexact, Num

from autofusion_jax.arguments import Positive, Share
from autofusion_jax.merging.fuse import average
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.per_model_inputs import Batches, inputs_of_each
from autofusion_jax.merging.regression.least_squares import in_batches, numbers_per_input
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import wide
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.moments import Moments, stream_moments
from autofusion_jax.symmetry.program import FlatProgram
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

Grams = Mapping[str, Array | np.ndarray]
"""By path of a weight `E[z^H z]` of the rows z that it multiplies: `[C, C]`, or `[B, C, C]` for B products
(heads)."""


@factory
def regmean(
    *,
    alpha: Share = 0.9,
    ridge: Positive = 1e-4,
    grams: Sequence[Grams] | None = None,
    inputs: Batches | None = None,
) -> Method:
    r"""Fit the weight of every linear layer to what all networks make there, each on its own inputs.

    `argmin_W sum_k E |W z_k - W_k z_k|^2`, `z_k` what the layer of network k reads: with the Gram
    matrices `G_k = E[z_k z_k^T]`, `W^T = (sum_k G_k)^-1 sum_k G_k W_k^T`. Off the diagonal, `G_k` is
    multiplied by `alpha`. Convolutions are products with patches. All other leaves are averaged:
    biases, norms, embeddings, weights that are used more than once.

    Args:
        alpha: what is left of the entries off the diagonal, in [0, 1]: at 1 the minimum itself, which
            may be far off where the inputs at hand do not span what the layer reads; at 0 a
            weighted average of columns. 0.9 in the paper for most networks, 0.1 for T5; 0.95 (CLIP)
            and 0.6 (GPT-2) in FusionBench.
        ridge: weight of the distance from the average, > 0, in units of the mean square of what the
            layer reads. It decides where no network reads anything (units that are never active), and
            at `alpha` 1 with few inputs; single precision needs 1e-4 there.
        grams: `G_k` by path of the weight, one dict for each network, if they are known: from
            `gram_matrices`; with `align`, those of the aligned networks. Weights that are left out are
            averaged. The batch then only says what inputs look like.
        inputs: inputs `[N, ...]`, one array for each network, where their data differ; the batch of the
            merge for all if left out.

    Returns:
        A method for any number of networks; needs an `apply_fn`, but no spec. `diagnostics` has the
        paths of the leaves that were `fitted` and those that were only `averaged`.
        `regression_mean` is its formula as a pure function, vmap-able over `alpha` and `ridge`.

    Raises:
        ValueError: alpha or ridge out of range; when it runs, there are not as many `grams` or
            `inputs` as networks, or they do not fit the networks.

    References:
        Jin, Ren, Preotiuc-Pietro, Cheng: Dataless knowledge fusion by merging weights of language
        models, ICLR 2023.

    Example:
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([[1.0], [1.0]])}, {"w": jnp.array([[5.0], [5.0]])}]
        >>> own = [jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])]  # each reads one of two numbers
        >>> how = {"apply_fn": lambda params, x: x @ params["w"], "inputs": own}
        >>> result = af.merge_many(models, None, None, method="regmean", **how)
        >>> [round(value, 3) for value in result.params["w"][:, 0].tolist()]
        [1.0, 5.0]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        apply_fn = task.require_apply_fn()
        batches = [x for x, _ in inputs_of_each("regmean", task, inputs)]
        linear = find_layers(apply_fn, task.models[0], batches[0])
        if grams is not None:
            return _fitted(task, linear, _checked(linear, task, grams), alpha, ridge)
        measured = [_moments(apply_fn, params, x) for params, x in zip(task.models, batches)]
        return _fitted(task, linear, _in_one_unit(measured), alpha, ridge)

    return Method("regmean", run, uses_key=False, max_models=None, assumes_aligned=True)


def find_layers(apply_fn: ApplyFn, params: Params, x: Num[Array, "N ..."]) -> LinearLayers:
    """The linear layers of a network, those that read the inputs too."""
    return LinearLayers(_program(apply_fn, params, x[:2]), params, raw_inputs=True)


def gram_matrices(apply_fn: ApplyFn, params: Params, x: Num[Array, "N ..."]) -> dict[str, Array]:
    """Measure `E[z^H z]` of what every linear layer reads, rows z over inputs and places.

    Args:
        apply_fn: the network.
        params: its parameters.
        x: inputs.

    Returns:
        Path of the weight -> `[B, C, C]`: B products (1, or heads), C numbers read (for a convolution,
        those of a patch: places of the kernel, then channels).

    Example:
        >>> grams = gram_matrices(lambda params, x: x @ params["w"], {"w": jnp.ones((2, 1))}, jnp.eye(2))
        >>> grams["w"].tolist()
        [[[0.5, 0.0], [0.0, 0.5]]]
    """
    measured = _moments(apply_fn, params, x)
    return {path: part.unit**2 * part.second_moment().conj() for path, part in measured.items()}


def _moments(apply_fn: ApplyFn, params: Params, x: Num[Array, "N ..."]) -> dict[str, Moments]:
    layers = find_layers(apply_fn, params, x).layers
    if not layers:
        return {}
    batches = in_batches(x, sum(numbers_per_input(layers, len(x[:2]))))
    return stream_moments(Partial(_Reads(apply_fn, layers), params), batches, scaled=True)


def _in_one_unit(measured: Sequence[Mapping[str, Moments]]) -> list[dict[str, Array]]:
    """The Gram matrices of all networks, divided by one number for each weight: their ratios count."""
    units = {path: max(float(moments[path].unit) for moments in measured) for path in measured[0]}
    return [
        {path: (part.unit / units[path]) ** 2 * part.second_moment().conj() for path, part in moments.items()}
        for moments in measured
    ]


@jax.jit
def regression_mean(
    kernels: Inexact[Array, "models B C F"],
    grams: Inexact[Array, "models B C C"],
    alpha: int | float | Float[Array, ""],
    ridge: float | Float[Array, ""],
) -> Inexact[Array, "B C F"]:
    r"""`(sum_k G_k + n r I)^-1 sum_k (G_k + r I) W_k`, with `G_k` off the diagonal times `alpha`.

    `r` is `ridge` times the mean eigenvalue of the `G_k`. Solved for what is to be added to the average.

    Args:
        kernels: the networks' weights, as matrices from what is read to what is made.
        grams: their Gram matrices.
        alpha: in [0, 1].
        ridge: > 0.

    Example:
        >>> kernels = jnp.array([0.0, 4.0]).reshape(2, 1, 1, 1)
        >>> grams = jnp.array([3.0, 1.0]).reshape(2, 1, 1, 1)
        >>> print(f"{regression_mean(kernels, grams, 1.0, 1e-9).item():.3f}")
        1.000
    """
    eye = jnp.eye(grams.shape[-1])
    damped = grams * (alpha + (1 - alpha) * eye)
    # The change from the average is what is solved for: where nothing is read it is 0, whatever the ridge.
    mean = jnp.mean(kernels, 0)
    high = jax.lax.Precision.HIGHEST
    wanted = jnp.sum(jnp.matmul(damped, kernels - mean, precision=high), 0)
    total = jnp.sum(damped, 0)
    size = jnp.trace(total, axis1=-2, axis2=-1).real[:, None, None] / eye.shape[0]
    total = total + ridge * jnp.where(size > 0, size, 1) * eye
    scale = 1 / jnp.sqrt(jnp.diagonal(total, axis1=-2, axis2=-1).real)[..., None]  # [B, C, 1]
    # A unit diagonal: numbers that are read may differ in size by orders, and single precision would not do.
    even = scale * total * jnp.swapaxes(scale, -1, -2)
    return mean + scale * jnp.linalg.solve(even, scale * wanted)


def _fitted(
    task: MergeTask, linear: LinearLayers, grams: Sequence[Grams], alpha: float, ridge: float
) -> MergeResult:
    first, *_ = networks = [flatten_by_path(params) for params in task.models]
    weights = (1 / len(networks),) * len(networks)
    leaves, fitted = flatten_by_path(average(task.models, weights)), []
    for layer in linear.layers:
        path = layer.weight
        if all(path in known for known in grams):
            kernels = jnp.stack([linear.matrices(layer, leaves[path]) for leaves in networks])
            kernels = kernels if jnp.iscomplexobj(first[path]) else kernels.real
            together = jnp.stack([known[path] for known in grams])
            # real weights that multiply complex numbers: the real part has the minimum over real weights
            together = together if jnp.iscomplexobj(kernels) else together.real
            kernel = regression_mean(wide(kernels), together, alpha, ridge)
            leaves[path] = linear.weight(layer, kernel).astype(first[path].dtype)
            fitted.append(path)
    diagnostics = {"fitted": fitted, "averaged": [path for path in leaves if path not in fitted]}
    return aligned_result(
        task, unflatten_like(task.models[0], leaves), weights=weights, diagnostics=diagnostics,
        num_learned=sum(int(np.size(leaves[path])) for path in fitted),
    )  # fmt: skip


def _checked(linear: LinearLayers, task: MergeTask, grams: Sequence[Grams]) -> list[dict[str, Array]]:
    """Gram matrices as the user gave them, as `[B, C, C]`, if they fit the networks."""
    num = len(task.models)
    require(len(grams) == num, "regmean", "grams", f"{num} dicts, one for each network", len(grams))
    sizes = {layer.weight: layer.product.sizes[:2] for layer in linear.layers}
    found: list[dict[str, Array]] = []
    for number, known in enumerate(grams):
        unknown = [path for path in known if path not in sizes]
        wanted = f"by path of a linear layer's weight, of {list(sizes)}"
        require(not unknown, "regmean", f"grams[{number}]", wanted, unknown)
        found.append({})
        for path, gram in known.items():
            (b, c), shape, name = sizes[path], np.shape(gram), f"grams[{number}][{path!r}]"
            fits = shape in ((b, c, c), (c, c)[b - 1 :])
            require(fits, "regmean", name, f"of shape {(b, c, c) if b > 1 else (c, c)}", shape)
            require(bool(np.isfinite(gram).all()), "regmean", name, "finite", "NaN or infinite values")
            found[-1][path] = wide(gram).reshape(b, c, c)
    return found


@dataclasses.dataclass(frozen=True)
class _Reads:
    """By weight, what the layer reads."""

    apply_fn: ApplyFn
    layers: tuple[LinearLayer, ...]

    def __call__(self, params: Params, batch: Array) -> dict[str, tuple[Array, int]]:
        program = _program(self.apply_fn, params, batch)
        wanted = [program.equations[layer.equation].inputs[layer.product.live] for layer in self.layers]
        read = program.evaluate(wanted, program.values(params, batch))
        return {layer.weight: (layer.product.read(value)[None], 1) for layer, value in zip(self.layers, read)}


def _program(apply_fn: ApplyFn, params: Params, x: Array) -> FlatProgram:
    return FlatProgram(trace_program(apply_fn, params, x, caller="regmean"))
