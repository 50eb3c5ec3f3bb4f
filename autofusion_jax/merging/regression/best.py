"""All that unlabelled inputs can buy, one after the other: teacher, least squares, distillation."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.batching import predict
from autofusion_jax.merging.distillation import DistilOptions, distil_network
from autofusion_jax.merging.regression.prune_concat import prune_concat
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.teachers import Targets, check_pseudo_labels, find_targets
from autofusion_jax.trees import num_params
from autofusion_jax.validation import require


def best(
    *,
    pseudo_labels: str = "em",
    hard: bool = False,
    smoothing: float = 0.0,
    rounds: int = 0,
    epochs: int = 20,
    learning_rate: float = 3e-4,
    batch_size: int = 128,
    augment: str = "auto",
) -> Method:
    options = DistilOptions(epochs, learning_rate, batch_size, augment)
    options.check("best")
    check_pseudo_labels("best", pseudo_labels)
    require(rounds >= 0, "best", "rounds", ">= 0", rounds)

    def run(task: MergeTask) -> list[MergeResult]:
        targets = find_targets("best", task, pseudo_labels=pseudo_labels, zeta=0.0)
        if hard:
            targets = targets._replace(probs=jax.nn.one_hot(targets.probs.argmax(-1), targets.probs.shape[-1]))
        if smoothing:
            targets = targets._replace(probs=(1-smoothing)*targets.probs + smoothing/targets.probs.shape[-1])
        labelled = dataclasses.replace(task, y=targets.probs.argmax(-1), keys=task.keys[:1])
        (start,) = prune_concat(pseudo_labels=pseudo_labels).run(labelled)
        return [_distilled(task, start, targets, options, rounds, key) for key in task.keys]

    return Method("best", run, max_models=None)


def _distilled(task, start, targets, options, rounds, key):
    params, curves = start.params, []
    probs = targets.probs
    for number in range(rounds + 1):
        params, losses = distil_network(task.spec, params, task.inputs, probs, options, key=jax.random.fold_in(key, number))
        curves.append(losses)
        own = jax.nn.log_softmax(predict(task.network, params, task.inputs))
        probs = jax.nn.softmax((own + jnp.log(targets.probs + 1e-12)) / 2)
    return dataclasses.replace(start, params=params, history={"loss": np.concatenate(curves)})
