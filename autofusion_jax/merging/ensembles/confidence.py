"""The confidence ensemble: AutoFusion's teacher (Eq. 17-19) as a network of its own."""

import operator

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.autofusion.pseudo_labels import most_confident
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.types import Params


def confidence_ensemble() -> Method:
    """Run every network and answer with the one that is most confident on that input (Eq. 18).

    An upper bound for what pseudo-labels made this way can teach, at N times the cost and size.

    Returns:
        A method whose result has parameters stacked `[N, ...]` and an `apply_fn` of its own,
        which returns log-probabilities.
    """

    def run(task: MergeTask) -> list[MergeResult]:
        apply_fn = task.network

        def ensemble(stacked: Params, x: Array) -> Array:
            members = [jax.tree.map(operator.itemgetter(i), stacked) for i in range(len(task.models))]
            logits = jnp.stack([apply_fn(p, x) for p in members])  # [N, batch, classes]
            return jnp.log(most_confident(jax.nn.softmax(logits)))

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *task.models)
        return [MergeResult(stacked, ensemble)] * len(task.keys)

    return Method("confidence_ensemble", run, uses_key=False, max_models=None)
