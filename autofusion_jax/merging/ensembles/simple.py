"""The simple ensemble: the mean of what all networks say."""

import dataclasses

from autofusion_jax.merging.ensembles.weighted import weighted_ensemble
from autofusion_jax.merging.method import Method, factory


@factory
def simple_ensemble() -> Method:
    """Run every network and answer with the mean of their outputs: `1/N sum_k f(x; params_k)`.

    Returns:
        A method whose result has parameters stacked `[N, ...]` and an `apply_fn` of its own. Outputs
        are logits, or whatever the networks return, averaged as they are.

    References:
        Sagi, Rokach: Ensemble learning: A survey, WIREs Data Mining and Knowledge Discovery 2018;
        FusionBench, Table 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([[1.0]])}, {"w": jnp.array([[3.0]])}]
        >>> apply_fn = lambda p, x: x @ p["w"]
        >>> x = jnp.ones((2, 1))
        >>> result = af.merge_many(models, None, x, apply_fn=apply_fn, method="simple_ensemble")
        >>> result.apply_fn(result.params, x).tolist()
        [[2.0], [2.0]]
    """
    return dataclasses.replace(weighted_ensemble(), name="simple_ensemble")
