"""Accuracy along the line between two networks (AutoFusion, Fig. 3 and 4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.batching import predict
from autofusion_jax.evaluation.accuracy import Tasks, task_metrics
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import permute
from autofusion_jax.types import ApplyFn, Params, Perms, SoftPerms


def interpolation_curve(
    apply_fn: ApplyFn,
    spec: PermSpec,
    params_a: Params,
    params_b: Params,
    perms: Perms | SoftPerms,
    gammas: Float[Array, " points"],
    x: Float[Array, "n ..."],
    labels: Int[np.ndarray, " n"],
    tasks: Tasks,
) -> dict[str, np.ndarray]:
    """Evaluate `gamma A + (1 - gamma) pi(B)` for every gamma, in one program.

    Args:
        apply_fn: the networks' function.
        spec: their permutation spec.
        params_a: parameters of A.
        params_b: parameters of B.
        perms: B's permutations, hard or soft; applied once.
        gammas: weights of A.
        x: inputs.
        labels: true classes.
        tasks: the classes of both tasks.

    Returns:
        The metrics of `task_metrics`, each `[points]`, in percent.
    """
    predicted = _predictions(apply_fn, params_a, permute(spec, params_b, perms), gammas, x)
    return task_metrics(np.asarray(predicted), labels, tasks)


@functools.partial(jax.jit, static_argnames=("apply_fn",))
def _predictions(apply_fn: ApplyFn, params_a: Params, params_b: Params, gammas: Array, x: Array) -> Array:
    def one(gamma: Array) -> Array:
        return jnp.argmax(predict(apply_fn, interpolate(params_a, params_b, gamma), x), -1)

    return jax.lax.map(one, gammas)
