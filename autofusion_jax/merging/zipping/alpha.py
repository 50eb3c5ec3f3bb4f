"""How MuDSC chooses the weight of the weights against the activations from the inputs it has."""

import jax
import jax.numpy as jnp

from autofusion_jax.batching import predict
from autofusion_jax.merging.corrections.reset_norm import reset_norm, stored_statistics
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.teachers import find_targets
from autofusion_jax.types import Params

ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""What `alpha="auto"` tries."""


def score(task: MergeTask, params: Params) -> float:
    """How good a merged network is on the inputs of a task; higher is better.

    Where the networks hold BatchNorm statistics, these are measured again first: a zipped network is
    hardly ever of use with the mixed ones.

    Args:
        task: the networks that were merged, inputs `x` and perhaps labels `y`.
        params: parameters of the merged network.

    Returns:
        With labels the accuracy. Without, minus the cross-entropy to the predictions of whichever
        network is the most confident of an input, as AutoFusion's teacher.
    """
    spec, x = task.require_perm_spec(), task.require_x()
    if stored_statistics(spec, params, x):
        params, _ = reset_norm(spec, params, x)
    logits = predict(task.require_apply_fn(), params, x)
    if task.y is not None:
        return float(jnp.mean(jnp.argmax(logits, -1) == task.y))
    teacher = find_targets("mudsc", task, pseudo_labels="confidence", zeta=0.0)
    return float(jnp.mean(jnp.sum(teacher.probs * jax.nn.log_softmax(logits), -1)))
