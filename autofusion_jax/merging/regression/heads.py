"""The head of a merged network, fitted to labels."""

import dataclasses

import jax
import numpy as np
import scipy.optimize
from jax import Array
from jax.tree_util import Partial
from jaxtyping import Float

from autofusion_jax.batching import predict
from autofusion_jax.merging.autofusion.method import find_targets
from autofusion_jax.merging.regression.layers import LinearLayer, LinearLayers
from autofusion_jax.merging.regression.least_squares import (
    as_leaves,
    in_batches,
    numbers_per_input,
    ridge_regression,
    samples_of,
)
from autofusion_jax.merging.result import MergeTask
from autofusion_jax.symmetry.flat import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.transport.moments import stream_moments
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params
from autofusion_jax.validation import unknown_name

PSEUDO_LABELS = ("confidence", "em", "z")

SCALES = (1e-2, 1e3)
"""Between which a head's scale is sought; the upper end is reached where the labels can be told apart."""


def check_pseudo_labels(caller: str, pseudo_labels: str | None) -> None:
    """Raise ValueError for an unknown teacher."""
    if pseudo_labels is not None and pseudo_labels not in PSEUDO_LABELS:
        raise unknown_name(caller, "pseudo_labels", pseudo_labels, PSEUDO_LABELS)


def find_labels(caller: str, task: MergeTask, pseudo_labels: str) -> Float[Array, "N classes"]:
    """The real labels if there are any, else the teacher's, as one-hot rows."""
    probs = find_targets(caller, task, zeta=0.0).probs
    return jax.nn.one_hot(probs.argmax(-1), probs.shape[-1])


def fit_head(
    spec: PermSpec, linear: LinearLayers, params: Params, x: Float[Array, "N ..."],
    labels: Float[Array, "N classes"], ridge: float,
) -> dict[str, Array]:  # fmt: skip
    """Fit the head of a network, on what it reads there, to labels.

    By ridge regression to `labels - 1 / classes`. Its outputs lie between 0 and 1, which as logits
    say little; weights and bias are multiplied by the one positive number at which the
    cross-entropy of the labels is smallest.

    Args:
        spec: a spec that carries an `apply_fn`.
        linear: the linear layers of its program, with a head.
        params: parameters of the network.
        x: inputs.
        labels: one-hot labels or distributions.
        ridge: > 0, in units of the mean square of what the head reads.

    Returns:
        Path -> leaf, for the weight and the bias.
    """
    head = linear.head
    assert head is not None
    assert spec.apply_fn is not None
    (numbers,) = numbers_per_input([head], 2)
    batches = zip(in_batches(x, numbers), in_batches(labels - 1 / labels.shape[-1], numbers))
    moments = stream_moments(Partial(_Samples(spec, head), params), batches)[head.weight]
    centred = head.bias is not None
    leaves = as_leaves(
        linear, head, ridge_regression(moments, head.product.sizes[1], centred=centred, ridge=ridge)
    )
    known = flatten_by_path(params)
    fitted = unflatten_like(params, known | leaves)
    scale = best_scale(np.asarray(predict(spec.apply_fn, fitted, x)), np.asarray(labels))
    return {path: (scale * leaf).astype(known[path].dtype) for path, leaf in leaves.items()}


@dataclasses.dataclass(frozen=True)
class _Samples:
    """By weight, what the head reads and what it should make."""

    spec: PermSpec
    head: LinearLayer

    def __call__(self, params: Params, batch: tuple[Array, Array]) -> dict[str, tuple[Array, int]]:
        x, wanted = batch
        program = flatten_program(self.spec, params, x, caller="fit_head")
        leaves = flatten_by_path(params)
        values = {number: leaves[path] for path, number in program.leaves.items()}
        values |= dict(zip(program.inputs, jax.tree.leaves(x)))
        number = program.equations[self.head.equation].inputs[self.head.product.live]
        (read,) = program.evaluate([number], values)
        return {self.head.weight: (samples_of(self.head.product.read(read), wanted[:, None]), 1)}


def best_scale(logits: Float[np.ndarray, "N classes"], labels: Float[np.ndarray, "N classes"]) -> float:
    """The `s` in `SCALES` at which the mean cross-entropy of `softmax(s * logits)` is smallest.

    Example:
        >>> best_scale(np.array([[1.0, 0.0]] * 4), np.array([[0.75, 0.25]] * 4)).__round__(3)
        1.099
    """
    logits, labels = np.float64(logits), np.float64(labels)

    def loss(log_scale: float) -> float:
        return -float(np.mean(np.sum(labels * scipy.special.log_softmax(np.exp(log_scale) * logits, -1), -1)))

    bounds = tuple(np.log(SCALES))
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))
