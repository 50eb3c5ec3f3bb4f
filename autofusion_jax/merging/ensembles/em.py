"""The EM ensemble: a Gaussian mixture in the networks' joint hidden features."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.batching import predict
from autofusion_jax.merging.ensembles.members import logits_shape, stack_members
from autofusion_jax.merging.ensembles.z import Standard, measure, standardised
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import scale_of, widened
from autofusion_jax.symmetry.capture import capture_sites
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from autofusion_jax.validation import require

NUM_GROUPS = 2
"""Features are those of the last groups of each network."""

SMALLEST_SPREAD = 1e-3
"""Of all variance, what components have within themselves at the least."""

OVERSAMPLING, NUM_ITERATIONS = 20, 6
"""Of the subspace iteration that finds the principal axes."""


class Mixture(NamedTuple):
    """A linear classifier: the posterior of a Gaussian mixture with one covariance.

    Attributes:
        kernel: `[features, components]`.
        bias: `[components]`.
    """

    kernel: Float[Array, "features components"]
    bias: Float[Array, " components"]


@factory
def em_ensemble(*, rounds: Count = 3, num_axes: Count = 200, ridge: Positive = 0.01) -> Method:
    """Run every network, and classify by a Gaussian mixture in the features of all of them.

    Features are the hidden units of each network's last two groups, centred and divided by their
    total spread, on their leading `num_axes` principal axes. Every class that a network knows (see
    `known_classes`) is a Gaussian; all share one covariance. EM starts from the labels of the z
    ensemble. The posterior is linear in the features, and several networks' Gaussians of one class
    add up.

    Args:
        rounds: of EM, >= 1. The first gives nearly all of the gain; many drift away from the labels.
        num_axes: principal axes, >= 1.
        ridge: added to the covariance, in units of its mean eigenvalue, > 0.

    Returns:
        A method whose result has an `apply_fn` of its own, which returns log-probabilities.

    Raises:
        ValueError: an option is out of its range, the networks' output is not one vector of logits for
            every input, or the spec has no sites to read features from.
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        apply_fn, spec, x = task.require_apply_fn(), task.require_perm_spec(), task.require_x()
        shape = list(logits_shape("em_ensemble", task))
        require(
            len(shape) == 1, "em_ensemble", "the networks' output", "one vector of logits for every input",
            f"of shape {shape}", 'Use "z" or "confidence".',
        )  # fmt: skip
        sites = feature_sites(spec, task.models[0], x)
        logits = jnp.stack([predict(apply_fn, params, x) for params in task.models])
        standard = measure(logits)
        read = _Features(spec, sites)
        features = [predict(read, params, x) for params in task.models]
        start = component_labels(logits, standard)
        mixture = fit_mixture(features, start, int(standard.known.sum()), num_axes, rounds, ridge)
        classes = tuple(np.nonzero(standard.known)[1].tolist())  # of every component
        params = {"members": stack_members(task.models), "mixture": mixture._asdict()}
        return MergeResult(params, _Posterior(read, classes, logits.shape[-1]))

    return Method("em_ensemble", run, uses_key=False, max_models=None, changes_program=True)


def feature_sites(spec: PermSpec, params: Params, x: Array) -> tuple[Site, ...]:
    """The last `read` site of each of the last groups, of those that hold one row for every input.

    Raises:
        ValueError: there is none.
    """

    def rows(num: int) -> dict[str, tuple[int, ...]]:
        few = jax.ShapeDtypeStruct((num, *x.shape[1:]), x.dtype)
        captured = jax.eval_shape(functools.partial(capture_sites, spec), params, few)
        return {name: value.shape for name, value in captured.items()}

    two, three = rows(2), rows(3)
    last: dict[str, Site] = {}
    for site in spec.sites:
        if site.position == "read" and two[site.name][0] == 2 and three[site.name][0] == 3:
            last.pop(site.group, None)
            last[site.group] = site
    require(
        bool(last), "em_ensemble", "perm_spec", "one with sites that hold a row for every input", "none",
        'Use infer_perm_spec(apply_fn, params, x), or the "z" ensemble.',
    )  # fmt: skip
    return tuple(last.values())[-NUM_GROUPS:]


@dataclasses.dataclass(frozen=True)
class _Features:
    """The function from parameters and inputs to the hidden features `[batch, features]`."""

    spec: PermSpec
    sites: tuple[Site, ...]

    def __call__(self, params: Params, x: Array) -> Array:
        captured = capture_sites(self.spec, params, x, sites=self.sites)
        values = [widened(captured[site.name]) for site in self.sites]
        return jnp.concatenate([value.reshape(x.shape[0], -1) for value in values], -1)


@dataclasses.dataclass(frozen=True)
class _Posterior:
    """The ensemble as a network: the log posterior of the classes, of each the sum over its components.

    Those of equal fields are equal, so that they share their programs.
    """

    read: _Features
    classes: tuple[int, ...]
    num_classes: int

    def __call__(self, params: Params, x: Array) -> Float[Array, "batch classes"]:
        features = jax.vmap(self.read, (0, None))(params["members"], x)  # [models, batch, features]
        joint = jnp.moveaxis(features, 0, 1).reshape(x.shape[0], -1)
        log_probs = jax.nn.log_softmax(joint @ params["mixture"]["kernel"] + params["mixture"]["bias"])
        member = np.equal.outer(self.classes, range(self.num_classes))  # [components, classes]
        return jax.nn.logsumexp(jnp.where(member, log_probs[..., None], -jnp.inf), axis=-2)


def component_labels(
    logits: Float[Array, "models batch classes"], standard: Standard
) -> Int[Array, " batch"]:
    """The component, one for every class that a network knows, with the largest standardised logit."""
    z = jnp.moveaxis(standardised(logits, standard), 1, 0).reshape(logits.shape[1], -1)
    numbers = jnp.cumsum(standard.known.reshape(-1)) - 1
    return numbers[jnp.argmax(z, -1)]


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def fit_mixture(
    features: list[Float[Array, "batch _"]],
    labels: Int[Array, " batch"],
    num_components: int,
    num_axes: int,
    rounds: int,
    ridge: float,
) -> Mixture:
    """Fit a Gaussian mixture with one covariance by EM, on the principal axes of joint features.

    Args:
        features: of every network.
        labels: the component of each input to start from.
        num_components: how many there are.
        num_axes: principal axes, at most as many as inputs or features.
        rounds: of EM.
        ridge: see `em_ensemble`.

    Returns:
        The classifier on the features as they are.
    """
    units = [scale_of(f) for f in features]
    scaled = [f / unit for f, unit in zip(features, units)]
    shift = [f.mean(0) for f in scaled]
    spread = [jnp.sqrt(jnp.mean(jnp.sum((f - m) ** 2, 1))) for f, m in zip(scaled, shift)]
    safe = [jnp.where(s > 0, s, 1) for s in spread]
    joint = jnp.concatenate([(f - m) / s for f, m, s in zip(scaled, shift, safe)], -1)
    axes = _principal_axes(joint, num_axes)  # [features, axes]
    scores = joint @ axes
    spread_of_all = jnp.mean(jnp.sum(scores**2, 1))

    def classify(resp: Array) -> tuple[Array, Array]:
        weights = resp.sum(0)
        means = resp.T @ scores / jnp.where(weights > 0, weights, 1)[:, None]
        share = weights / weights.sum()
        cov = scores.T @ scores / len(scores) - (means.T * share) @ means
        size = cov.shape[0]
        # as many components as inputs leave no covariance within them: rounding alone would decide
        within = jnp.maximum(jnp.trace(cov), SMALLEST_SPREAD * spread_of_all)
        cov = cov + jnp.where(within > 0, ridge * within / size, 1) * jnp.eye(size)
        kernel = jnp.linalg.solve(cov, means.T)
        return kernel, jnp.log(jnp.maximum(share, 1e-12)) - jnp.sum(means.T * kernel, 0) / 2

    resp = jax.nn.one_hot(labels, num_components)
    for _ in range(rounds):
        kernel, bias = classify(resp)
        resp = jax.nn.softmax(scores @ kernel + bias)
    whole = axes @ kernel
    scale = jnp.concatenate([jnp.full(f.shape[-1], 1 / s / unit) for f, s, unit in zip(scaled, safe, units)])
    centre = jnp.concatenate([m / s for m, s in zip(shift, safe)])
    return Mixture(scale[:, None] * whole, bias - centre @ whole)


def _principal_axes(centred: Float[Array, "batch features"], num_axes: int) -> Float[Array, "features axes"]:
    """Orthonormal leading principal axes, by subspace iteration (Halko, Martinsson, Tropp 2011, Alg. 4.4)."""
    rows, columns = centred.shape
    count = min(num_axes, rows, columns)
    start = jax.random.normal(jax.random.key(0), (columns, min(count + OVERSAMPLING, rows, columns)))

    def iterate(_: Array, basis: Array) -> Array:
        return jnp.linalg.qr(centred.T @ (centred @ basis))[0]

    basis = jax.lax.fori_loop(0, NUM_ITERATIONS, iterate, jnp.linalg.qr(start)[0])
    _, _, inner = jnp.linalg.svd(centred @ basis, full_matrices=False)
    return basis @ inner[:count].T
