import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import autofusion_jax as af
from autofusion_jax.batching import predict
from autofusion_jax.merging.autofusion import losses
from autofusion_jax.merging.autofusion.optimise import Data, Problem, init_states, run_epochs
from autofusion_jax.merging.autofusion.options import Options
from autofusion_jax.merging.teachers import retain_loss
from tests.conftest import inputs_for, params_for
from tests.merging.tasks import confident_targets


def hand_spec():
    params = {"one": {"w": jnp.array([[1.0, 2.0]])}, "two": {"w": jnp.array([[3.0], [4.0]])}}
    table = {"one/w": (None, af.out_axis("one")), "two/w": (af.in_axis("one"), None)}
    return af.PermSpec.from_table(table, params), params


def test_layer_weights_are_2_l_over_l():
    np.testing.assert_allclose(losses.layer_weights(3, "linear"), [6.0, 3.0, 2.0])
    assert losses.layer_weights(3, "uniform") == [1.0, 1.0, 1.0]


def test_align_loss_by_hand():
    """L = 2: (1/2) (4 * ((1-2)^2 + (2-1)^2) + 2 * ((3-4)^2 + (4-4)^2)) = (8 + 2) / 2."""
    spec, a = hand_spec()
    b = {"one": {"w": jnp.array([[2.0, 1.0]])}, "two": {"w": jnp.array([[4.0], [4.0]])}}
    assert float(losses.align_loss(spec, a, b, losses.layer_weights(2, "linear"))) == pytest.approx(5.0)
    assert float(losses.align_loss(spec, a, b, losses.layer_weights(2, "uniform"))) == pytest.approx(1.5)


def test_retain_loss_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    probs = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    keep = jnp.array([1.0, 1.0, 0.0])
    expected = (np.log(2) - 0.5 * np.log(0.25) - 0.5 * np.log(0.75)) / 2
    assert float(retain_loss(logits, probs, keep)) == pytest.approx(expected, rel=1e-6)
    assert float(retain_loss(logits, probs, jnp.zeros(3))) == 0.0


@pytest.mark.parametrize(
    ("strategy", "epoch", "value", "grads"),
    [
        ("normalized", 0, 2.0, (1 / 4, 1 / 0.5)),
        ("weighted", 0, 0.3 * 4 + 0.7 * 0.5, (0.3, 0.7)),
        ("rounded", 1, 4.0, (1.0, 0.0)),
        ("rounded", 2, 0.5, (0.0, 1.0)),
        ("rounded", 4, 4.0, (1.0, 0.0)),
        ("align", 0, 4.0, (1.0, 0.0)),
        ("retain", 0, 0.5, (0.0, 1.0)),
    ],
)
def test_balance_by_hand(strategy, epoch, value, grads):
    def total(align, retain):
        return losses.balance(
            align, retain, strategy=strategy, omega_a=0.3, omega_r=0.7, switch_every=2, epoch=jnp.array(epoch)
        )

    args = (jnp.array(4.0), jnp.array(0.5))
    assert float(total(*args)) == pytest.approx(value)
    np.testing.assert_allclose(jax.grad(total, argnums=(0, 1))(*args), grads, rtol=1e-6)


def test_normalised_zero_stays_zero():
    value, grad = jax.value_and_grad(
        lambda r: losses.balance(
            jnp.array(2.0),
            r,
            strategy="normalized",
            omega_a=1.0,
            omega_r=1.0,
            switch_every=1,
            epoch=jnp.array(0),
        )
    )(jnp.array(0.0))
    assert float(value) == 1.0 and float(grad) == 0.0


def problem_and_data(model, unroll, **options):
    options = Options(**{"epochs": 4, "batch_size": 8, "gamma": 0.5, **options})
    a, b, x = params_for(model, 0), params_for(model, 1), inputs_for(model)
    targets = confident_targets(model, (a, b), x)
    return Problem(model.perm_spec, model.apply, options, unroll), Data(a, b, x, targets)


@pytest.mark.slow
def test_unrolled_equals_vmapped(model):
    results = []
    for unroll in (True, False):
        problem, data = problem_and_data(model, unroll)
        states = init_states(problem, 24, jax.random.split(jax.random.key(0), 2))
        results.append(run_epochs(problem, states, data, jnp.arange(4)))
    chex.assert_trees_all_close(results[0][0].learned, results[1][0].learned, atol=2e-3)


@pytest.mark.slow
def test_epochs_in_parts_are_the_same_run(mlp):
    problem, data = problem_and_data(mlp, False)
    whole, _ = run_epochs(
        problem, init_states(problem, 24, jax.random.split(jax.random.key(0), 2)), data, jnp.arange(4)
    )
    states = init_states(problem, 24, jax.random.split(jax.random.key(0), 2))
    states, _ = run_epochs(problem, states, data, jnp.arange(2))
    states, _ = run_epochs(problem, states, data, jnp.arange(2, 4))
    chex.assert_trees_all_close(states.learned, whole.learned, atol=1e-6)


@pytest.mark.slow
def test_both_losses_fall(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    x = inputs_for(mlp, 64)
    for strategy, curve in (("align", "align"), ("retain", "retain")):
        result = af.merge(
            a, b, mlp.perm_spec, x, strategy=strategy, epochs=30, batch_size=32, gamma=0.5, start="random"
        )
        assert result.history[curve][-1] < 0.95 * result.history[curve][0]


@pytest.mark.slow
def test_align_finds_a_planted_permutation(mlp):
    """A against a permuted copy of itself, alignment alone: the hard permutation undoes it."""
    spec, a = mlp.perm_spec, params_for(mlp, 0)
    planted = af.random_perms(spec, jax.random.key(2))
    b = af.apply_perm(spec, a, planted)
    result = af.merge(a, b, spec, inputs_for(mlp), strategy="align", epochs=100, zeta=0.0)
    chex.assert_trees_all_equal(dict(result.perms), af.invert(spec, planted))
    chex.assert_trees_all_close(result.variants["hard"], a, atol=1e-6)


@pytest.mark.slow
def test_a_spec_written_by_hand_will_do(mlp):
    """It has no sites to match activations at, and none for the EM teacher."""
    bare = dataclasses.replace(mlp.perm_spec, sites=())
    result = af.merge(params_for(mlp, 0), params_for(mlp, 1), bare, inputs_for(mlp, 64), epochs=4)
    assert bool(jnp.isfinite(mlp.apply(result.params, inputs_for(mlp))).all())


@pytest.mark.slow
def test_real_labels_are_used(mlp):
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 64)
    y = np.asarray(mlp.apply(params_for(mlp, 7), x).argmax(-1))
    method = af.methods.autofusion_paper(epochs=20, strategy="retain", gamma=0.5, zeta=0.0, tau=1.0)
    with_labels, without = (
        af.merge(a, b, mlp.perm_spec, x, labels=labels, method=method) for labels in (y, None)
    )
    agree = [float((mlp.apply(r.params, x).argmax(-1) == y).mean()) for r in (with_labels, without)]
    assert agree[0] > agree[1]
    assert with_labels.diagnostics["kept"] == 1.0


@pytest.mark.slow
def test_optimizer_is_an_option(mlp):
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp)
    sgd = af.merge(a, b, mlp.perm_spec, x, optimizer=optax.sgd, epochs=2, zeta=0.0)
    adam = af.merge(a, b, mlp.perm_spec, x, epochs=2, zeta=0.0)
    assert not np.allclose(sgd.soft_perms["dense_0"], adam.soft_perms["dense_0"], atol=1e-3)


@pytest.mark.slow
def test_steps_are_as_long_as_the_slope_of_the_loss(mlp):
    """Weights twice as large have four times the slope: a quarter of the rate makes the same steps."""
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp)
    fixed = {"strategy": "align", "gamma": 0.5, "start": "random", "epochs": 10, "optimizer": optax.sgd}
    found = [
        af.merge(
            *(jax.tree.map(lambda leaf, size=size: size * leaf, params) for params in (a, b)), mlp.perm_spec,
            x, **fixed, learning_rate=0.5 / size**2, final_learning_rate=0.1 / size**2,
        ).soft_perms
        for size in (1.0, 2.0)
    ]  # fmt: skip
    assert np.abs(found[0]["dense_0"] - 1 / 12).max() > 1e-2
    chex.assert_trees_all_close(dict(found[0]), dict(found[1]), atol=1e-4)


@pytest.mark.slow
def test_divergence_is_named(mlp):
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp)
    broken = dataclasses.replace(mlp.perm_spec, apply_fn=lambda params, x: mlp.apply(params, x) * jnp.nan)
    with pytest.raises(
        ValueError, match=r"autofusion: \w+ must stay finite; it is NaN or infinite in epoch \d"
    ):
        af.merge(a, b, broken, x, labels=np.zeros(24, int), epochs=4)


@pytest.mark.slow
def test_progress_is_logged_and_shown(mlp, caplog, capsys):
    with caplog.at_level("DEBUG", logger="autofusion_jax"):
        result = af.merge(
            params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp), epochs=3, progress=True
        )
    said = [record.getMessage() for record in caplog.records if record.name == "autofusion_jax"]
    assert said[0] == "autofusion, 2 networks: started"
    assert said[1:-1] == [f"autofusion, 2 networks: {epoch} of 3" for epoch in (1, 2, 3)]
    assert re.fullmatch(r"autofusion, 2 networks: done in \d+\.\d s", said[-1])
    quiet = af.merge(params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp), epochs=3)
    chex.assert_trees_all_close(result.params, quiet.params, atol=1e-6)


@pytest.mark.slow
def test_predict_pads_and_cuts(mlp):
    params, x = params_for(mlp, 0), inputs_for(mlp, 23)
    np.testing.assert_allclose(predict(mlp.apply, params, x, batch_size=5), mlp.apply(params, x), atol=1e-5)
