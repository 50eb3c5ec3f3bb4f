"""Concrete: its steps by hand, what it learns, what its mask is; bad options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import autofusion_jax as af
from autofusion_jax.merging.adaptive.adamerging import add_task_vectors_by
from autofusion_jax.merging.adaptive.adaptation import mean_entropy
from autofusion_jax.merging.adaptive.concrete import (
    ConcreteOptions,
    add_masked,
    learn_mask,
    sample_mask,
)
from tests.conftest import fine_tuned, inputs_for

SHORT = {"num_steps": 100, "learning_rate": 0.1, "inner_rate": 0.1}


def merged(model, x, **options):
    base, models = fine_tuned(model, 3)
    return af.merge_many(models, model.perm_spec, x, base=base, method="concrete", **{**SHORT, **options})


def expect_close(got, expected, atol=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("level", ["task", "layer"])
@pytest.mark.parametrize("mask", ["soft", "hard", "sampled"])
@pytest.mark.slow
def test_the_result_is_what_mask_and_coefficients_say(mlp, level, mask):
    base, models = fine_tuned(mlp, 3)
    result = merged(mlp, inputs_for(mlp), level=level, mask=mask)
    kept = result.diagnostics["mask"]
    coefficients = jnp.asarray(result.diagnostics["coefficients"])
    expect_close(result.params, add_masked(base, add_task_vectors_by(base, models, coefficients), kept))
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(kept)])
    assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.01
    assert (set(np.unique(values)) == {0.0, 1.0}) == (mask == "hard")
    if level == "task":
        np.testing.assert_allclose(coefficients, 0.3)
    else:
        assert float(jnp.abs(coefficients - 0.3).max()) > 0.1
    assert result.history["entropy"].shape == ((100,) if level == "task" else (200,))
    size = sum(leaf.size for leaf in jax.tree.leaves(base))
    assert result.num_learned == size + (0 if level == "task" else coefficients.size)
    assert result.diagnostics["num_params"] == size


@pytest.mark.parametrize("level", ["task", "layer"])
@pytest.mark.slow
def test_it_becomes_surer_than_without_a_mask(mlp, level):
    x = inputs_for(mlp, 64)
    base, models = fine_tuned(mlp, 3)
    result = merged(mlp, x, level=level)
    without = af.merge_many(models, mlp.perm_spec, x, base=base, method="task_arithmetic")
    before, after = (float(mean_entropy(mlp.apply(r.params, x))) for r in (without, result))
    assert after < 0.9 * before


@pytest.mark.slow
def test_one_step_by_hand(mlp):
    """Adam's first step goes against the sign of the gradient, through one inner step with a fixed mask."""
    base, models = fine_tuned(mlp, 3)
    x = inputs_for(mlp)
    options = ConcreteOptions("layer", "soft", 0.3, 0.5, 0.1, 0.1, 1, 24)
    key = jax.random.key(2)
    mask, _, _ = learn_mask(mlp.apply, options, base, models, (x,), key)
    step_key = jax.random.split(jax.random.split(key, 3)[0], 1)[0]
    zeros = jax.tree.map(jnp.zeros_like, base)
    drawn = sample_mask(zeros, 0.5, jax.random.fold_in(step_key, 2))
    leaves = len(jax.tree.leaves(base))

    def entropy(coefficients, mask):
        params = add_masked(base, add_task_vectors_by(base, models, coefficients), mask)
        return mean_entropy(mlp.apply(params, x))

    start = jnp.full((3, leaves), 0.3)
    inner = start - 0.1 * jax.grad(entropy)(start, drawn)
    grads = jax.grad(lambda mask: entropy(inner, mask))(drawn)
    through = jax.tree.map(lambda g, m: g * m * (1 - m) / 0.5, grads, drawn)
    updates, _ = optax.adam(0.1).update(through, optax.adam(0.1).init(zeros))
    expected = jax.tree.map(jax.nn.sigmoid, updates)
    steps = [np.ravel(leaf) for leaf in jax.tree.leaves(mask)]
    wanted = [np.ravel(leaf) for leaf in jax.tree.leaves(expected)]
    assert np.mean(np.isclose(np.concatenate(steps), np.concatenate(wanted), atol=1e-4)) > 0.99
    # the remaining ones have no gradient but rounding, whose sign Adam takes at its word


def test_masks_are_drawn_from_the_concrete_distribution():
    """P(m > 1/2) = sigmoid(logit) at every temperature; the lower it is, the nearer masks are to 0 and 1."""
    logits = jnp.full(20_000, 0.7)
    drawn = {t: sample_mask(logits, t, jax.random.key(0)) for t in (0.1, 0.5, 2.0)}
    for mask in drawn.values():
        np.testing.assert_allclose(jnp.mean(mask > 0.5), jax.nn.sigmoid(0.7), atol=0.015)
    between = [float(jnp.mean((mask > 0.1) & (mask < 0.9))) for mask in drawn.values()]
    assert between[0] < between[1] < between[2]


@pytest.mark.slow
def test_leaves_that_are_no_floats_are_the_base_s(mlp):
    base, models = fine_tuned(mlp, 2)
    base, *models = ({"net": params, "step": jnp.asarray(n)} for n, params in enumerate((base, *models)))
    result = af.merge_many(
        models, None, inputs_for(mlp), base=base, method="concrete", num_steps=2,
        apply_fn=lambda params, x: mlp.apply(params["net"], x),
    )  # fmt: skip
    assert result.params["step"].dtype == jnp.int32 and int(result.params["step"]) == 0


@pytest.mark.slow
def test_inputs_and_losses_that_cannot_be(mlp):
    for options, message in [
        ({"inputs": [jnp.zeros((2, 4, 4))]}, "inputs must be 3 batches, one for each network; got 1"),
        ({"inner_rate": 1e38, "num_steps": 5}, "concrete: the entropy must be finite; got nan in step 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            merged(mlp, inputs_for(mlp), **options)
