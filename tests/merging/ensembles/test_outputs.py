"""Ensembles of outputs: the recorded ones, several outputs, and bad weights."""

import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import oracle

RECORDED = {"simple_ensemble": "simple", "weighted_ensemble": "weighted", "max_model": "max"}
WEIGHTS = (0.5, 1.0, 2.5)


def ensemble_of(tables, name, **options):
    """An ensemble of networks that look their logits up, and what it says of every input."""
    rows = jnp.arange(tables.shape[1])
    models = [{"table": jnp.asarray(table)} for table in tables]
    result = af.merge_many(models, None, rows, apply_fn=lambda p, x: p["table"][x], method=name, **options)
    return result.apply_fn(result.params, rows)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_outputs(name):
    stored = oracle("fusionbench/fb_ensembles.npz")
    options = {"weights": WEIGHTS} if name == "weighted_ensemble" else {}
    got = ensemble_of(stored["logits"], name, **options)
    np.testing.assert_allclose(got, stored[RECORDED[name]], atol=1e-6)


def test_raw_weights_are_taken_as_they_are():
    logits = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    got = ensemble_of(logits, "weighted_ensemble", weights=[1.0, 0.0, 2.0], normalize=False)
    np.testing.assert_allclose(got, logits[0] + 2 * logits[2])


def test_several_outputs_are_averaged_one_by_one():
    models = [{"w": jnp.array(2.0)}, {"w": jnp.array(4.0)}]
    result = af.merge_many(
        models, None, jnp.ones((3, 1)), method="simple_ensemble",
        apply_fn=lambda p, x: (x * p["w"], {"square": x * p["w"] ** 2}),
    )  # fmt: skip
    first, second = result.apply_fn(result.params, jnp.ones((3, 1)))
    assert first.tolist() == [[3.0]] * 3 and second["square"].tolist() == [[10.0]] * 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "weighted_ensemble: weights must be 3 numbers, one for each network; got"),
        ([1, -1, 0], "weighted_ensemble: weights must be a list of finite numbers with a sum above 0"),
        ([1, float("nan"), 0], "weights must be a list of finite numbers"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        ensemble_of(np.zeros((3, 2, 2), np.float32), "weighted_ensemble", weights=weights)
