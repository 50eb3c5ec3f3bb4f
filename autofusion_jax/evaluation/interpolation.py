"""Accuracy along the line between two networks (AutoFusion, Fig. 3 and 4)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import checked
from autofusion_jax.batching import predict
from autofusion_jax.evaluation.accuracy import Predictions, Tasks, classify, measure
from autofusion_jax.merging.fuse import interpolate
from autofusion_jax.partition import split
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import permute
from autofusion_jax.trees import in_containers_of
from autofusion_jax.types import ApplyFn, Params, Perms, SoftPerms


@checked
def interpolation_curve(
    apply_fn: ApplyFn,
    spec: PermSpec,
    params_a: Params,
    params_b: Params,
    perms: Perms | SoftPerms,
    gammas: Float[Array, " points"],
    x: Any,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    prepare: Callable[[Params], Params] | None = None,
) -> dict[str, Any]:
    """Evaluate `gamma A + (1 - gamma) pi(B)` for every gamma, in one program.

    Args:
        apply_fn: the networks' function.
        spec: their permutation spec.
        params_a: parameters of A.
        params_b: parameters of B.
        perms: B's permutations, hard or soft; applied once.
        gammas: weights of A.
        x: inputs `[n, ...]`, or a pytree of them.
        labels: true classes, or one row for each task, see `evaluate`.
        tasks: the classes of each task, A first.
        prepare: applied to every interpolated network before it runs, for example to measure
            BatchNorm statistics anew; traceable.

    Returns:
        The metrics of `evaluate`, each `[points]`, in percent.
    """
    classes = tuple(tuple(task) for task in tasks)
    numbers_a, rest = split(params_a)
    numbers_b = permute(spec, split(in_containers_of(params_a, params_b))[0], perms)
    predicted = _predictions(
        rest.bind(apply_fn), numbers_a, numbers_b, gammas, x, classes, prepare and rest.around(prepare)
    )
    within = predicted.within.swapaxes(0, 1)  # [tasks, points, n]
    return measure(Predictions(predicted.overall, within), labels, tasks)


@jit_by_network(static_argnames=("tasks", "prepare"))
def _predictions(
    apply_fn: ApplyFn,
    params_a: Params,
    params_b: Params,
    gammas: Array,
    x: Array,
    tasks: Tasks,
    prepare: Callable[[Params], Params] | None,
) -> Predictions:
    def one(gamma: Array) -> Predictions:
        params = interpolate(params_a, params_b, gamma)
        return classify(predict(apply_fn, params if prepare is None else prepare(params), x), tasks)

    return jax.lax.map(one, gammas)
