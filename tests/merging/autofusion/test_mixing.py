"""Mixing weights: by hand on a small network, at their start, and learned."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.autofusion.autofusion import class_weights
from autofusion_jax.merging.autofusion.mixing import init_mixing, mix
from autofusion_jax.models.registry import build_model
from tests.conftest import inputs_for, params_for
from tests.merging.tasks import blobs, task_of

HALVES = jnp.full((2, 3), 0.5)


def test_every_weight_is_weighted_on_both_sides():
    table = {
        "up": (None, af.out_axis("up")), "shift": (af.out_axis("up"),),
        "down": (af.in_axis("up"), None), "bias": (None,), "step": (),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = {"up": (4, 2), "shift": (2,), "down": (2, 3), "bias": (3,)}
    models = [{k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()} | {"step": 7} for _ in range(2)]
    spec = af.PermSpec.from_table(table, models[0])
    out, read = rng.normal(size=(2, 2)), rng.normal(size=(2, 2))
    classes = jnp.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.7]])
    mixing = {"out": {"up": jnp.asarray(out)}, "in": {"up": jnp.asarray(read)}, "classes": classes}
    got = mix(spec, models, mixing)
    a, b = ({k: np.asarray(v) for k, v in m.items()} for m in models)
    c, d = np.asarray(classes)
    expected = {
        "up": (a["up"] * out[0] + b["up"] * out[1]) / 2,
        "shift": (a["shift"] * out[0] + b["shift"] * out[1]) / 2,
        "down": a["down"] * read[0][:, None] * c + b["down"] * read[1][:, None] * d,
        "bias": a["bias"] * c + b["bias"] * d,
        "step": 7,
    }
    chex.assert_trees_all_close(got, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.slow
def test_the_start_is_the_average(norm):
    model = build_model("vgg", (8, 8, 2), widths=(4, 6), pool_after=(0,), num_classes=3, norm=norm)
    a, b = params_for(model, 0), params_for(model, 1)
    got = mix(model.perm_spec, (a, b), init_mixing(model.perm_spec, HALVES))
    chex.assert_trees_all_close(got, jax.tree.map(lambda x, y: (x + y) / 2, a, b), atol=1e-6)


@pytest.mark.slow
def test_statistics_are_averaged_whatever_the_weights():
    model = build_model("vgg", (8, 8, 2), widths=(4, 6), pool_after=(0,), num_classes=3, norm="batch")
    a, b = params_for(model, 0), params_for(model, 1)
    result = af.merge(a, b, model.perm_spec, inputs_for(model), epochs=2, batch_size=8)
    for params in result.variants.values():
        order = result.perms if params is result.variants["hard"] else result.soft_perms
        moved = (
            af.apply_perm(model.perm_spec, b, order)
            if order is result.perms
            else af.apply_soft(model.perm_spec, b, order)
        )
        expected = jax.tree.map(lambda x, y: (x + y) / 2, a["batch_stats"], moved["batch_stats"])
        chex.assert_trees_all_close(params["batch_stats"], expected, atol=1e-5)


def specialist(model, seed, bias):
    params = params_for(model, seed)
    head = params["params"]["head"]
    return {"params": {**params["params"], "head": {**head, "bias": head["bias"] + jnp.asarray(bias)}}}


def test_head_rows_start_with_the_network_that_knows_the_class(mlp):
    x, _ = blobs(3, 30, mlp.input_shape)
    models = [specialist(mlp, 0, [20.0, -20, -20]), specialist(mlp, 1, [-20.0, 20, 20])]
    np.testing.assert_array_equal(class_weights(task_of(mlp, models, x)), [[1, 0, 0], [0, 1, 1]])
    same = class_weights(task_of(mlp, [models[0], models[0]], x))
    np.testing.assert_array_equal(same, np.full((2, 3), 0.5))


@pytest.mark.slow
def test_learned_mixing_is_what_the_result_is_made_of(mlp):
    """Both variants are rebuilt from the permutations and the weights that the result reports."""
    a, b, spec, x = params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp)
    result = af.merge(a, b, spec, x, epochs=3, batch_size=8)
    mixings = jax.tree.map(jnp.asarray, result.diagnostics["mixing"], is_leaf=lambda v: isinstance(v, list))
    soft, hard = af.apply_soft(spec, b, result.soft_perms), af.apply_perm(spec, b, result.perms)
    chex.assert_trees_all_close(result.variants["soft"], mix(spec, (a, soft), mixings["soft"]), atol=1e-5)
    chex.assert_trees_all_close(result.variants["hard"], mix(spec, (a, hard), mixings["hard"]), atol=1e-5)
    sizes = [group.size for group in spec.groups.values()]
    assert result.num_learned == sum(n * n + 4 * n for n in sizes) + 2 * 3
    assert not np.allclose(mixings["soft"]["in"]["dense_0"], mixings["hard"]["in"]["dense_0"])


@pytest.mark.slow
def test_learned_mixing_fits_the_labels_better(mlp):
    a, b, x = params_for(mlp, 0), params_for(mlp, 1), inputs_for(mlp, 64)
    y = np.asarray(mlp.apply(params_for(mlp, 7), x).argmax(-1))
    options = {"epochs": 30, "batch_size": 32, "strategy": "retain"}
    losses = {}
    for gamma in (0.5, "learned"):
        result = af.merge(a, b, mlp.perm_spec, x, labels=y, gamma=gamma, **options)
        log_probs = jax.nn.log_softmax(mlp.apply(result.variants["hard"], x))
        losses[gamma] = -float(log_probs[np.arange(64), y].mean())
    assert losses["learned"] < 0.8 * losses[0.5]


@pytest.mark.slow
def test_the_start_is_near_the_matched_permutation(mlp):
    """With rates too small to move anything, what is rounded is where it started."""
    a, b, spec, x = params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp, 64)
    matched = af.merge(a, b, spec, x, method="activation_matching").perms
    rates = {"learning_rate": 1e-6, "final_learning_rate": 1e-6, "mixing_rate": 1e-6}
    result = af.merge(a, b, spec, x, epochs=1, **rates)
    chex.assert_trees_all_equal(dict(result.perms), dict(matched))
    for soft in result.soft_perms.values():
        assert 0.85 < float(soft.max(-1).mean()) < 0.95
