"""Inferred specs against specs written by hand, and what users see of them: names, notes, errors."""

import dataclasses
import json

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.symmetry.axes import Axis, Factor
from autofusion_jax.symmetry.rules import RULES
from autofusion_jax.symmetry.rules.elementwise import elementwise
from tests.conftest import inputs_for, oracle, oracle_network, params_for, spec_from_oracle
from tests.models.hand_specs import HAND_SPECS
from tests.symmetry.rebasin_resnet import resnet20
from tests.symmetry.zoo import CASES


def test_bundled_models_are_inferred_as_written_by_hand(model):
    inferred = model.perm_spec
    by_hand = HAND_SPECS[type(model.module)](model.module, params_for(model, 0))
    assert list(inferred.groups.values()) == list(by_hand.groups.values())
    assert inferred.layers == by_hand.layers
    assert {leaf.path: leaf for leaf in inferred.leaves} == {leaf.path: leaf for leaf in by_hand.leaves}
    assert af.check_perm_spec(inferred, params_for(model, 0), inputs_for(model, 3)) < 1e-5


def test_git_re_basins_resnet20_up_to_names():
    stored = oracle("resnet20_w8_indep.npz")
    params = oracle_network(stored, "b")
    forward = oracle("resnet20_w8_forward.npz")
    np.testing.assert_allclose(resnet20(params, forward["x"]), forward["y_b"], atol=1e-4)
    inferred = af.infer_perm_spec(resnet20, params, forward["x"])
    table = json.loads(str(stored["spec_json"]))
    assert set(table) == {leaf.path for leaf in inferred.leaves}
    names = {}
    for leaf in inferred.leaves:
        for axis, theirs in zip(leaf.axes, table[leaf.path], strict=True):
            assert (axis.groups == ()) == (theirs is None), leaf.path
            for ours in axis.groups:
                assert axis.blocks == ((Factor(axis.size, ours),),)
                assert names.setdefault(ours, theirs) == theirs, leaf.path
    assert len(set(names.values())) == len(names) == len(inferred.groups)
    by_hand = spec_from_oracle(table, params)
    roles = {(leaf.path, n): axis.role for leaf in by_hand.leaves for n, axis in enumerate(leaf.axes)}
    for leaf in inferred.leaves:
        for number, axis in enumerate(leaf.axes):
            if len(leaf.axes) > 1:
                assert axis.role == roles[leaf.path, number], leaf.path


def attention(params, x):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, params["attn"][n]["kernel"]) for n in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum(
        "bqhd,hde->bqe", jnp.einsum("bhqk,bkhd->bqhd", weights, v), params["attn"]["out"]["kernel"]
    )


def attention_params():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"query": (6, 3, 4), "key": (6, 3, 4), "value": (6, 3, 4), "out": (3, 4, 5)}
    return {"attn": {n: {"kernel": jax.random.normal(k, s)} for k, (n, s) in zip(keys, shapes.items())}}


def test_names_tell_what_a_group_is():
    spec = af.infer_perm_spec(attention, attention_params(), jnp.ones((2, 5, 6)))
    assert list(spec.groups) == ["attn.heads", "attn/query.head_dim", "attn/value.head_dim"]
    assert spec.groups["attn/query.head_dim"].nested_in == ("attn.heads",)
    text = str(spec)
    assert "attn/query.head_dim: 4 units in each of attn.heads" in text
    assert "in attn.heads:3, in attn/value.head_dim:4" in text


@pytest.mark.parametrize(
    "name", ["vit_fused_timm", "resnet20_padded_both_sides", "reshape_no_op", "scan_over_layers"]
)
def test_json_keeps_all(name):
    spec = af.infer_perm_spec(*CASES[name].make(), check=False)
    stored = af.PermSpec.from_json(spec.to_json(), apply_fn=spec.apply_fn)
    assert stored == spec
    assert stored.sites == spec.sites
    assert stored.notes == spec.notes


def linear(params, x):
    return jnp.tanh(x @ params["up"]) @ params["down"]


LINEAR = {
    "up": jax.random.normal(jax.random.key(0), (3, 4)),
    "down": jax.random.normal(jax.random.key(1), (4, 2)),
}
X = jax.random.normal(jax.random.key(2), (5, 3))


def test_abstract_values_are_enough():
    shapes = jax.eval_shape(lambda: LINEAR)
    spec = af.infer_perm_spec(linear, shapes, jax.ShapeDtypeStruct(X.shape, X.dtype), check=False)
    assert spec == af.infer_perm_spec(linear, LINEAR, X)


def unknown(params, x):
    hidden = jnp.tanh(x @ params["up"])
    mixed = jnp.linalg.qr(hidden)[0]
    return mixed @ params["down"]


def test_unknown_primitives_are_noted_with_their_place():
    spec = af.infer_perm_spec(unknown, LINEAR, X)
    assert spec.groups == {}
    assert spec.notes[1:] == (
        "no groups, as all axes are fixed: up axis 1 (4): no rule for qr; down axis 0 (4): made by qr; "
        "down axis 1 (2): an output",
    )
    assert "geqrf" in spec.notes[0] or "qr" in spec.notes[0]
    assert "test_infer_specs.py" in spec.notes[0]
    assert spec.notes[0] in str(spec)


def test_a_rule_can_be_registered():
    primitive = jax.extend.core.Primitive("my_activation")
    primitive.def_abstract_eval(lambda aval: aval)
    primitive.def_impl(jnp.sin)

    def apply_fn(params, x):
        return primitive.bind(x @ params["up"]) @ params["down"]

    assert not af.infer_perm_spec(apply_fn, LINEAR, X, check=False).groups
    af.register_rule("my_activation", elementwise)
    try:
        spec = af.infer_perm_spec(apply_fn, LINEAR, X, check=False)
    finally:
        del RULES["my_activation"]
    assert [group.size for group in spec.groups.values()] == [4]
    assert not spec.notes


def test_a_wrong_rule_is_caught_by_the_check(monkeypatch):
    def apply_fn(params, x):
        return jnp.cumsum(x @ params["up"], -1) @ params["down"]

    assert not af.infer_perm_spec(apply_fn, LINEAR, X).groups
    monkeypatch.setitem(RULES, "cumsum", RULES["tanh"])
    with pytest.raises(ValueError, match="check_perm_spec: reordering group 'up' .* they change by"):
        af.infer_perm_spec(apply_fn, LINEAR, X)


def test_ties_make_the_inference_strict():
    """An argmax over units that tie depends on their order; that is found out and allowed for."""

    def gated(params, x):
        hidden = jnp.round(x @ params["up"])
        return (hidden * jax.nn.one_hot(hidden.argmax(-1), 4)) @ params["down"]

    assert [g.size for g in af.infer_perm_spec(gated, LINEAR, X, check=False).groups.values()] == [4]
    tied = {**LINEAR, "up": jnp.zeros((3, 4))}
    assert not af.infer_perm_spec(gated, {**tied, "up": tied["up"] + 0.01}, 100 * X**2).groups


def test_small_outputs_do_not_cry_wolf():
    """Outputs that cancel to almost nothing: the relative change is rounding, as float64 shows."""

    def apply_fn(params, x):
        y = linear(params, x)
        return 1e4 * (y - jax.lax.stop_gradient(linear(params, x * (1 + 1e-7)))) + 0 * y

    spec = af.infer_perm_spec(apply_fn, LINEAR, X)
    assert [g.size for g in spec.groups.values()] == [4]


def branching(params, x):
    return linear(params, x) if x.sum() > 0 else x


def scripted(params, x):
    return np.asarray(linear(params, x))


@pytest.mark.parametrize(
    ("apply_fn", "params", "message"),
    [
        (branching, LINEAR, "must be traceable by JAX; TracerBoolConversionError"),
        (scripted, LINEAR, "must be traceable by JAX; TracerArrayConversionError"),
        (linear, {**LINEAR, "up": jnp.zeros((7, 4))}, "Do params and x belong to this function"),
        (linear, {"up": LINEAR["up"]}, "KeyError"),
        (lambda p, x: (linear(p, x), "logits"), LINEAR, "Every output must be an array"),
    ],
)
def test_bad_input_is_one_clear_error(apply_fn, params, message):
    with pytest.raises(ValueError, match=message) as caught:
        af.infer_perm_spec(apply_fn, params, X)
    assert str(caught.value).startswith("infer_perm_spec: ")
    assert "\n" not in str(caught.value)


def test_other_params_and_wrong_sizes_are_refused():
    spec = af.infer_perm_spec(linear, LINEAR, X)
    with pytest.raises(ValueError, match=r"params\['up'\] axis 1 \(out up:4\) must have shape \(3, 4\)"):
        af.apply_perm(spec, {**LINEAR, "up": jnp.zeros((3, 5))}, af.identity_perms(spec))
    with pytest.raises(ValueError, match=r"perms\['up'\] must be integers of shape \(4,\)"):
        af.apply_perm(spec, LINEAR, {"up": jnp.arange(5)})


def test_a_wrong_hand_written_spec_names_leaf_and_axis():
    spec = af.infer_perm_spec(linear, LINEAR, X)
    down = next(leaf for leaf in spec.leaves if leaf.path == "down")
    loose = dataclasses.replace(down, axes=(Axis(((Factor(4),),)), down.axes[1]))
    wrong = dataclasses.replace(spec, leaves=(spec.leaves[0], loose))
    with pytest.raises(ValueError, match="group 'up' .* down axis 0 should carry it as well"):
        af.check_perm_spec(wrong, LINEAR, X)
