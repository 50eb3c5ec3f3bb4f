"""Leaves that the program does not read follow the units of those beside them, or are named."""

import jax
import jax.numpy as jnp
import numpy as np

import autofusion_jax as af


def network(key):
    """A hidden layer with statistics of which one is read, and a head that is not."""
    keys = jax.random.split(key, 6)
    draw = jax.random.normal
    return {
        "up": draw(keys[0], (3, 5)),
        "ema": {"average": draw(keys[1], (5,)), "hidden": draw(keys[2], (5,)), "counter": jnp.array(7)},
        "down": draw(keys[3], (5, 2)),
        "other_head": draw(keys[4], (5, 2)),
        "other_task": draw(keys[5], (4, 4)),
    }


def apply_fn(params, x):
    return jnp.tanh(x @ params["up"] - params["ema"]["average"]) @ params["down"]


X = jax.random.normal(jax.random.key(9), (6, 3))


def test_they_follow_or_are_named():
    spec = af.infer_perm_spec(apply_fn, network(jax.random.key(0)), X)
    axes = {leaf.path: leaf.axes for leaf in spec.leaves}
    assert axes["ema/hidden"] == axes["ema/average"] and axes["ema/hidden"][0].groups == ("up",)
    assert axes["other_head"] == axes["down"]
    assert spec.notes == (
        "not read by apply_fn, units as those of leaves beside them: ema/hidden (ema/average), "
        "other_head (down)",
        "not read by apply_fn, units in the order in which they are: other_task",
    )


def test_a_merge_brings_them_back_with_their_units_and_says_so():
    params = network(jax.random.key(0))
    spec = af.infer_perm_spec(apply_fn, params, X)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(1)))
    assert not np.array_equal(copy["ema"]["hidden"], params["ema"]["hidden"])
    result = af.merge(params, copy, spec, X, method="weight_matching")
    for name in ("average", "hidden"):
        np.testing.assert_allclose(result.params["ema"][name], params["ema"][name], rtol=1e-6)
    assert "other_task" in dict(result.recipe)["notes"]
