"""The head of a merged network, fitted to labels."""

import dataclasses

import jax
import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from jax import Array
from jaxtyping import Float, Num

from autofusion_jax.batching import predict
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.regression.least_squares import Fit, as_leaves, ridge_regression, samples_of
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.teachers import find_targets, teacher_name
from autofusion_jax.precision import scale_of, wide, widened
from autofusion_jax.symmetry.moments import batch_moments
from autofusion_jax.symmetry.program import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params

SCALES = (1e-2, 1e3)
"""Between which a head's scale is sought."""

SMALLEST_WEIGHT = 1e-6
"""Of `1 - h_i`, by which the residual of an input is divided."""


def fit_labelled_head(
    caller: str,
    task: MergeTask,
    linear: LinearLayers,
    params: Params,
    pseudo_labels: str | None,
    ridge: float,
) -> tuple[dict[str, Array], str]:
    """Fit the head of a merged network to labels, if that is wanted and it has such a head.

    Args:
        caller: the method that asks, for messages.
        task: the task; its labels, if there are any, take the place of the teacher's.
        linear: the linear layers of the network's program.
        params: parameters of the merged network.
        pseudo_labels: a key of `teachers.TEACHERS`, or None: no labels.
        ridge: as for `fit_head`.

    Returns:
        Path -> leaf of what was fitted; and `"labels"`, the name of the teacher that gave them, or
        `"mean"` if the head is left as it is.
    """
    if pseudo_labels is None or linear.head is None:
        return {}, "mean"
    probs = find_targets(caller, task, pseudo_labels=pseudo_labels, zeta=0.0).probs
    labels = jax.nn.one_hot(probs.argmax(-1), probs.shape[-1])
    leaves = fit_head(task.require_perm_spec(), linear, params, task.require_x(), labels, ridge)
    return leaves, teacher_name(caller, task, pseudo_labels)


def fit_head(
    spec: PermSpec, linear: LinearLayers, params: Params, x: Num[Array, "N ..."],
    labels: Float[Array, "N classes"], ridge: float,
) -> dict[str, Array]:  # fmt: skip
    """Fit the head of a network, on what it reads there, to labels.

    By ridge regression to `labels - 1 / classes`. Its outputs lie between 0 and 1, which as logits
    say little; so weights and bias are multiplied by one positive number, at which the
    cross-entropy of the labels is smallest if every input is judged by the head that is fitted
    without it (the leave-one-out residual of ridge regression, `r_i / (1 - h_i)`). On the inputs
    that it was fitted to, a head with many weights seems surer than it may be.

    Args:
        spec: a spec that carries an `apply_fn`.
        linear: the linear layers of its program, with a head.
        params: parameters of the network.
        x: inputs.
        labels: one-hot labels or distributions.
        ridge: > 0, in units of the mean square of what the head reads.

    Returns:
        Path -> leaf, for the weight and the bias.

    References:
        Golub, Heath, Wahba: Generalized cross-validation as a method for choosing a good ridge
        parameter, Technometrics 21(2), 1979: the leave-one-out residual.
    """
    head = linear.head
    assert head is not None
    centred = head.bias is not None
    read = predict(_Reader(spec, head), params, x)  # [N, C]
    wanted = labels - 1 / labels.shape[-1]
    # what is read may be of any size; labels are of size 1
    unit = scale_of(widened(read))
    read = wide(read) / unit
    moments = batch_moments(samples_of(read[:, None], wanted[:, None]), 1)
    fit = ridge_regression(moments, read.shape[-1], centred=centred, ridge=ridge)
    outside = _left_out(np.asarray(read, np.float64), np.asarray(wanted, np.float64), fit, centred)
    scale = best_scale(outside, np.asarray(labels))
    known = flatten_by_path(params)
    leaves = as_leaves(linear, head, fit._replace(kernel=fit.kernel / float(unit)))
    return {path: (scale * leaf).astype(known[path].dtype) for path, leaf in leaves.items()}


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What the head reads, as a network that `predict` runs."""

    spec: PermSpec
    head: LinearLayer

    def __call__(self, params: Params, x: Array) -> Float[Array, "N C"]:
        program = flatten_program(self.spec, params, x, caller="fit_head")
        number = program.equations[self.head.equation].inputs[self.head.product.live]
        return self.head.product.read(program.evaluate([number], program.values(params, x))[0])[:, 0]


def _left_out(read: np.ndarray, wanted: np.ndarray, fit: Fit, centred: bool) -> np.ndarray:
    """What the head says of every input if it is fitted without it, `[N, classes]`."""
    shift = read.mean(0) if centred else 0
    leverage = np.sum(
        (read - shift) * scipy.linalg.solve(fit.gram[0], (read - shift).T, assume_a="pos").T, -1
    )
    leverage = (leverage + centred) / len(read)
    residual = wanted - read @ fit.kernel[0] - fit.bias[0]
    return wanted - residual / np.maximum(1 - leverage, SMALLEST_WEIGHT)[:, None]


def best_scale(logits: Float[np.ndarray, "N classes"], labels: Float[np.ndarray, "N classes"]) -> float:
    """The `s` in `SCALES` at which the mean cross-entropy of `softmax(s * logits)` is smallest.

    Example:
        >>> round(best_scale(np.array([[1.0, 0.0]] * 4), np.array([[0.75, 0.25]] * 4)), 3)
        1.099
    """

    def loss(log_scale: float) -> float:
        log_probs = scipy.special.log_softmax(np.exp(log_scale) * logits, axis=-1)
        return -float(np.mean(np.sum(labels * log_probs, axis=-1)))

    bounds = (float(np.log(SCALES[0])), float(np.log(SCALES[1])))
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))
