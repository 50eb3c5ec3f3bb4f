import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.matching.ste import _gradients
from tests.conftest import inputs_for, params_for
from tests.merging.tasks import confident_targets

OPTIONS = {"method": "ste", "zeta": 0.0, "batch_size": 12}


def cross_entropy(model, params, x, probs):
    return float(-(probs * jax.nn.log_softmax(model.apply(params, x))).sum(-1).mean())


@pytest.mark.slow
def test_the_best_permutations_are_kept(mlp):
    """The start is weight matching; what is kept is the best of it and of all epochs, not the last."""
    a, b, x, spec = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp), mlp.perm_spec
    teacher = confident_targets(mlp, (a, b), x).probs
    result = af.merge(a, b, spec, x, epochs=12, **OPTIONS)
    losses = [result.diagnostics["start_loss"], *result.history["loss"]]
    assert len(losses) == 13 and min(losses) < losses[0]
    assert result.diagnostics["best_epoch"] == int(np.argmin(losses)) < 12
    for params in (result.params, af.fuse(a, b, result.perms, 0.5, spec)):
        np.testing.assert_allclose(cross_entropy(mlp, params, x, teacher), min(losses), rtol=1e-5)
    for perm in result.perms.values():
        np.testing.assert_array_equal(np.sort(perm), np.arange(len(perm)))
    shorter = af.merge(a, b, spec, x, epochs=3, **OPTIONS)
    np.testing.assert_array_equal(shorter.history["loss"], result.history["loss"][:3])
    assert shorter.diagnostics["best_epoch"] == int(np.argmin(losses[:4]))


def test_the_gradient_goes_straight_through(mlp):
    """As written with `stop_gradient`: latent weights in the gradient, B's permuted ones in the value."""
    a, b, spec = params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec
    x, perms = inputs_for(mlp), af.random_perms(mlp.perm_spec, jax.random.key(3))
    targets = confident_targets(mlp, (a, b), x)
    projected = af.apply_perm(spec, b, perms)

    def loss(latent):
        straight = jax.tree.map(lambda v, p: v + jax.lax.stop_gradient(p - v), latent, projected)
        logits = mlp.apply(jax.tree.map(lambda v, w: 0.3 * v + 0.7 * w, a, straight), x)
        return -(targets.probs * jax.nn.log_softmax(logits)).sum(-1).mean()

    expected = jax.tree_util.tree_leaves_with_path(jax.grad(loss)(a))
    got = _gradients(spec, mlp.apply, a, b, perms, 0.3, x, targets)
    assert len(got) == len(expected)
    for path, grad in expected:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(got[name], grad, rtol=1e-4, atol=1e-6)


def test_labels_are_used_where_given(mlp):
    a, b, x, spec = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp), mlp.perm_spec
    y = np.arange(24) % 3
    result = af.merge(a, b, spec, x, labels=y, epochs=12, **OPTIONS)
    best = min(result.diagnostics["start_loss"], *result.history["loss"])
    np.testing.assert_allclose(cross_entropy(mlp, result.params, x, jax.nn.one_hot(y, 3)), best, rtol=1e-5)
    assert best < result.diagnostics["start_loss"]


@pytest.mark.slow
def test_leaves_that_are_no_floats_stay_as_they_are():
    def apply_fn(params, x):
        return jnp.maximum(x @ params["up"], 0) @ params["down"] + params["count"]

    keys = jax.random.split(jax.random.key(0), 4)
    a, b = (
        {
            "up": jax.random.normal(keys[i], (3, 8)),
            "down": jax.random.normal(keys[i + 2], (8, 2), jnp.bfloat16),
            "count": jnp.array(i),
        }
        for i in range(2)
    )
    x = jax.random.normal(jax.random.key(5), (16, 3))
    spec = af.infer_perm_spec(apply_fn, a, x[:2])
    method = af.methods.ste(epochs=3, zeta=0.0)
    keys = jax.random.split(jax.random.key(0), 2)
    results = af.merge_repeats([a, b], spec, x, keys=keys, method=method)
    assert results[0].params["count"] == 0 and results[0].params["down"].dtype == jnp.bfloat16
    assert results[0].num_learned == 40


def test_it_needs_inputs(mlp):
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, None, **OPTIONS)


def test_a_loss_that_is_not_finite_is_an_error():
    def apply_fn(params, x):
        return x @ params["up"] @ params["down"] / params["scale"]

    params = {"up": jnp.eye(3, 4), "down": jnp.eye(4, 2), "scale": jnp.ones(())}
    spec = af.infer_perm_spec(apply_fn, params, jnp.ones((2, 3)), check=False)
    other = {**params, "scale": -jnp.ones(())}
    with pytest.raises(ValueError, match="ste: the loss at the start must be finite; got nan"):
        af.merge(params, other, spec, jnp.ones((4, 3)), **OPTIONS)
