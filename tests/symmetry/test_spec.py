import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.symmetry.axes import Axis, Factor
from autofusion_jax.symmetry.spec import LeafSpec


def test_table_learns_sizes_and_prints_readably():
    params = {"up": jnp.zeros((3, 4)), "down": jnp.zeros((36, 2))}
    spec = af.PermSpec.from_table(
        {"up": (None, af.out_axis("u")), "down": (af.in_axis(3, 3, "u"), None)}, params
    )
    assert spec.groups["u"] == af.Group("u", 4)
    assert spec.leaves[1].axes[0] == Axis(((Factor(3), Factor(3), Factor(4, "u")),), "in")
    assert "in 3 x 3 x u:4" in str(spec)


def test_hash_equality_and_json(model):
    spec, again = model.perm_spec, model.perm_spec
    assert spec == again and hash(spec) == hash(again)
    stored = af.PermSpec.from_json(spec.to_json(), apply_fn=model.apply)
    assert stored == spec and hash(stored) == hash(spec)
    assert af.PermSpec.from_json(spec.to_json()).apply_fn is None
    assert spec != "another thing"


def test_layers_follow_the_forward_pass():
    from autofusion_jax.models.registry import build_model

    deep = build_model("mlp", (3,), widths=(2,) * 12, num_classes=2)
    assert deep.perm_spec.layers == (*(f"params/dense_{i}" for i in range(12)), "params/head")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"up": (None, None)}, "'down' must be in both; the table leaves it out"),
        (
            {"up": (None, None), "down": (None, None), "x": (None,)},
            "'x' must be in both; params has no such leaf",
        ),
        ({"up": (None,), "down": (None, None)}, "up must have 2 axes"),
        (
            {"up": (None, af.out_axis("u")), "down": (af.in_axis(5, "u"), None)},
            "down axis 0 must multiply to 36",
        ),
        ({"up": (None, None), "down": (af.in_axis("p", "q"), None)}, "groups of unknown size"),
    ],
)
def test_bad_tables(table, message):
    params = {"up": jnp.zeros((3, 4)), "down": jnp.zeros((36, 2))}
    with pytest.raises(ValueError, match=message):
        af.PermSpec.from_table(table, params)


def test_bad_specs():
    carried = Axis(((Factor(4, "u"),),), "out")
    with pytest.raises(ValueError, match="no such group"):
        af.PermSpec((LeafSpec("w", (carried,)),), {})
    with pytest.raises(ValueError, match="of size 4, but groups says size 5"):
        af.PermSpec((LeafSpec("w", (carried,)),), {"u": af.Group("u", 5)})
    with pytest.raises(ValueError, match="must have a role exactly if it carries a group"):
        af.PermSpec((LeafSpec("w", (Axis(carried.blocks),)),), {"u": af.Group("u", 4)})
    with pytest.raises(ValueError, match="must be nested in groups or stacks of the spec"):
        af.PermSpec((LeafSpec("w", (carried,)),), {"u": af.Group("u", 4, nested_in=("heads",))})
    with pytest.raises(ValueError, match=r"both parts must be 'in'; got 'out'"):
        af.in_axis("a") + af.out_axis("b")


def test_shapes_of_concatenation():
    pattern = af.in_axis("a") + af.in_axis("b")
    params = {"wa": jnp.zeros((2,)), "wb": jnp.zeros((3,)), "w": jnp.zeros((5, 1))}
    spec = af.PermSpec.from_table(
        {"wa": (af.out_axis("a"),), "wb": (af.out_axis("b"),), "w": (pattern, None)}, params
    )
    assert spec.leaves[2].shape == (5, 1)
    assert spec.leaves[2].axes[0].groups == ("a", "b")
    np.testing.assert_equal(list(spec.groups), ["a", "b"])
