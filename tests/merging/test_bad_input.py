"""Every kind of bad input to `merge` is one clear error."""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import autofusion_jax as af
from tests.conftest import inputs_for, params_for


def with_leaf(params, layer, leaf, value):
    return {"params": {**params["params"], layer: {**params["params"][layer], leaf: value}}}


@pytest.fixture
def good(mlp):
    return params_for(mlp, 0), params_for(mlp, 1), mlp.perm_spec, inputs_for(mlp)


def test_shapes_between_models(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "dense_1", "bias", jnp.zeros(11))
    with pytest.raises(
        ValueError, match=r"merge: params_b\['params/dense_1/bias'\] must be float32\[10\].*\[11\]"
    ):
        af.merge(a, wrong, spec, x)


def test_missing_leaf(good):
    a, b, spec, x = good
    del b["params"]["dense_0"]["bias"]
    with pytest.raises(ValueError, match=r"params_b\['params/dense_0/bias'\] .* got nothing"):
        af.merge(a, b, spec, x)


def test_another_spec(good, vgg):
    a, b, _, x = good
    with pytest.raises(ValueError, match=r"params_a\['params/conv_0/kernel'\] .* params_a has no such leaf"):
        af.merge(a, b, vgg.perm_spec, x)


def test_dtypes(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "head", "bias", jnp.zeros(3, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"must be float32\[3\] .* got bfloat16\[3\]"):
        af.merge(a, wrong, spec, x)


def test_nan_in_params(good):
    a, b, spec, x = good
    wrong = with_leaf(b, "head", "bias", jnp.array([0.0, jnp.nan, 0.0]))
    with pytest.raises(ValueError, match=r"params_b\['params/head/bias'\] must be finite; got 1 NaN"):
        af.merge(a, wrong, spec, x)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (jnp.zeros((0, 4, 4)), "batch must be a batch of one or more inputs"),
        (
            jnp.zeros((24, 3, 3)),
            r"batch must be inputs \[N, ...\] that apply_fn takes; got shape \[24, 3, 3\]",
        ),
        (jnp.zeros((16, 1)).reshape(4, 4), r"got shape \[4, 4\]"),
        (jnp.full((5, 4, 4), jnp.nan), r"batch must be finite; got 80 NaN.*Are the inputs"),
        (None, "needs inputs"),
        (
            (jnp.zeros((5, 4, 4)), np.zeros(5, int)),
            r"one array .* got a tuple. Labels go in as labels=",
        ),
        ({"x": jnp.zeros((5, 4, 4))}, r"one array of inputs \[N, ...\]; got a dict"),
        ([jnp.zeros((5, 4, 4)), np.zeros(5, int)], "got a list.*of several batches of one shape give a list"),
        (iter([jnp.zeros((5, 4, 4))]), "got a list_iterator"),
        ((jnp.zeros((5, 4, 4)) for _ in range(2)), "got a generator"),
        ([], "got a list"),
        ("images.npy", "got a str"),
        (np.array(["a", "b"]), r"an array of numbers; got <U1\[2\]"),
        (np.array([None, {}]), r"an array of numbers; got object\[2\]"),
        (np.float32(1.0), r"one or more inputs \[N, ...\]; got shape \[\]"),
        (np.full((5, 4, 4), 2**40), "batch must be integers that int32 holds; got 1099511627776 to"),
        (jax.random.split(jax.random.key(0), 5), "an array of numbers; got key"),
    ],
)
def test_batches(good, batch, message):
    a, b, spec, _ = good
    with pytest.raises(ValueError, match=message):
        af.merge(a, b, spec, batch)


@pytest.mark.parametrize(
    "batch",
    [
        [np.zeros((3, 4), np.float32), np.ones((2, 4), np.float32)],
        np.arange(20, dtype=np.uint8).reshape(5, 4),
        np.zeros((5, 4)),
    ],
    ids=["list of batches", "uint8", "float64"],
)
def test_batches_that_are_fine(batch):
    models, spec, _ = network_of(lambda logits, _: logits)
    result = af.merge(*models, spec, batch, method="activation_matching")
    assert dict(result.recipe)["inputs"] == "5"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, bool), r"labels must be integers of shape \[5\]; got bool\[5\]"),
        (np.eye(5, 3, dtype=int), r"got int64\[5, 3\].*of one-hot rows give argmax"),
        ([[0], [1, 2], [], [], []], r"labels must be integers of shape \[5\]; got a list"),
        (jax.random.split(jax.random.key(0), 5), r"labels must be integers .* got a PRNGKeyArray"),
        (["a"] * 5, r"got <U1\[5\]"),
        (np.array([0, 1, 2, 3, 0]), r"labels must be in \[0, 3\), .* got 0 to 3"),
        (np.array([0, 1]), r"labels must be integers of shape \[5\]"),
        (np.zeros(5), r"labels must be .* got float64\[5\]"),
    ],
)
def test_labels(good, labels, message):
    a, b, spec, _ = good
    with pytest.raises(ValueError, match=message):
        af.merge(a, b, spec, jnp.zeros((5, 4, 4)), labels=labels)
    with pytest.raises(ValueError, match="labels must be left out where there is no batch"):
        af.merge(a, b, spec, labels=labels, method="average")


def test_an_unknown_aligner_is_named_as_such(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="unknown align 'weight_machting'. Did you mean 'weight_matching'"):
        af.merge(a, b, spec, x, method="average", align="weight_machting")


def test_no_apply_fn(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="perm_spec must carry an apply_fn"):
        af.merge(a, b, dataclasses.replace(spec, apply_fn=None), x)


def test_options_of_another_method(good):
    """Options that a method refuses: test_options.py."""
    a, b, spec, x = good
    with pytest.raises(ValueError, match="unknown option 'taus'. Did you mean 'tau'"):
        af.merge(a, b, spec, x, taus=1.0)


def test_methods(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="unknown method 'autofussion'. Did you mean 'autofusion'"):
        af.merge(a, b, spec, x, method="autofussion")
    with pytest.raises(ValueError, match="unknown option 'sweeps'"):
        af.merge(a, b, spec, x, method="weight_matching", sweeps=3)
    with pytest.raises(ValueError, match="options must be given to the method itself"):
        af.merge(a, b, spec, x, method=af.methods.interpolation(), gamma=0.3)
    with pytest.raises(ValueError, match=r"interpolation: gamma must be a number in \[0, 1\]"):
        af.merge(a, b, spec, None, method="interpolation", gamma=-0.1)
    with pytest.raises(ValueError, match="two or more networks"):
        af.merge_many([a], spec, x)


def test_a_spec_without_groups():
    spec = af.PermSpec.from_table(
        {"w": (None, None)}, {"w": jnp.ones((3, 2))}, apply_fn=lambda p, x: x @ p["w"]
    )
    with pytest.raises(ValueError, match="autofusion: perm_spec must be a spec with groups to permute"):
        af.merge({"w": jnp.ones((3, 2))}, {"w": jnp.ones((3, 2))}, spec, jnp.ones((4, 3)))


def test_fuse_refuses_gamma_outside(good):
    a, b, spec, _ = good
    with pytest.raises(ValueError, match=r"fuse: gamma must be a number in \[0, 1\]"):
        af.fuse(a, b, af.identity_perms(spec), 1.01, spec)


@pytest.mark.slow
def test_zeta_that_keeps_nothing_warns_and_stays_finite(good):
    a, b, spec, x = good
    with pytest.warns(UserWarning, match=r"zeta=0.999999 keeps 0.0% of the inputs"):
        result = af.merge(a, b, spec, x, zeta=0.999999, epochs=2, pseudo_labels="confidence", gamma=0.5)
    assert np.all(result.history["retain"] == 0) and np.all(result.history["kept"] == 0)
    assert all(np.isfinite(v).all() for v in result.params["params"]["head"].values())


@pytest.mark.slow
def test_one_trusted_sample_does_not_warn(good):
    a, b, spec, x = good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = af.merge(a, b, spec, x[:1], zeta=0.0, epochs=1)
    assert result.diagnostics["kept"] == 1.0


def network_of(outputs):
    """Two networks of one hidden layer, whose logits `[N, 3]` are made into something else."""

    def apply_fn(params, x):
        hidden = jnp.tanh(x @ params["up"])
        return outputs(hidden @ params["down"], hidden.mean(-1, keepdims=True))

    shapes = {"up": (4, 6), "down": (6, 3)}
    keys = jax.random.split(jax.random.key(0), 2)
    models = [
        {name: jax.random.normal(jax.random.fold_in(key, size[0]), size) for name, size in shapes.items()}
        for key in keys
    ]
    x = jax.random.normal(jax.random.key(1), (8, 4))
    return models, af.infer_perm_spec(apply_fn, models[0], x), x


LEARNS_FROM_LABELS = {
    "autofusion": ("autofusion", {"epochs": 1}),
    "autofusion_paper": ("autofusion_paper", {"epochs": 1}),
    "prune_concat_distill": ("prune_concat_distill", {"epochs": 1}),
    "ste": ("ste", {}),
    "mudsc": ("mudsc", {"alpha": "auto"}),
    **{f"{name}_ensemble": (f"{name}_ensemble", {}) for name in ("confidence", "em", "z")},
}


@pytest.mark.parametrize("name", LEARNS_FROM_LABELS)
def test_several_outputs_have_no_labels(name):
    method, options = LEARNS_FROM_LABELS[name]
    models, spec, x = network_of(lambda logits, mean: (logits, {"mean": mean}))
    message = (
        r"^\w+: the networks' output must be one array of logits \[N, ..., classes\]; "
        r"got a tuple of 2 arrays, shapes \[1, 3\], \[1, 1\]. Infer the spec of a function that returns"
    )
    for labels in (None, np.zeros(8, int)):
        with pytest.raises(ValueError, match=message):
            af.merge(*models, spec, x, labels=labels, method=method, **options)


@pytest.mark.parametrize(
    ("outputs", "got"),
    [
        (lambda logits, _: {"logits": logits}, r"a dict of 1 arrays, shapes \[1, 3\]"),
        (lambda logits, _: logits[:, 0], r"shape \[1\]"),
    ],
)
def test_outputs_that_are_no_logits(outputs, got):
    models, spec, x = network_of(outputs)
    with pytest.raises(ValueError, match=f"autofusion: the networks' output must be .*; got {got}"):
        af.merge(*models, spec, x)


def test_methods_without_labels_take_several_outputs():
    """A head for labels is one of a single output: with more, `prune_concat` fits it to the mean."""
    models, spec, x = network_of(lambda *both: both)
    result = af.merge(*models, spec, x, method="prune_concat", pseudo_labels="em")
    assert result.diagnostics["head"] == "mean"
    assert af.merge(*models, spec, x, method="activation_matching").params["up"].shape == (4, 6)


@pytest.mark.parametrize("method", ["autofusion", "prune_concat_distill", "ste"])
def test_an_input_of_many_answers_has_no_one_label(method):
    models, spec, x = network_of(lambda logits, _: jnp.stack([logits] * 8, 1))
    message = rf"{method}: the networks' output must be one vector of logits .*; got shape \[8, 3\]"
    with pytest.raises(ValueError, match=message):
        af.merge(*models, spec, x, labels=np.zeros(8, int), method=method)


class Callable:
    """What modules of neural network libraries look like."""

    def __call__(self, x):
        return x


class Linen(Callable):
    init = apply = None


def holding_arrays():
    module = jax.tree_util.register_dataclass(
        dataclasses.make_dataclass("Module", ["kernel"], bases=(Callable,)), ["kernel"], []
    )
    return module(jnp.ones(2))


@pytest.mark.parametrize(
    ("apply_fn", "message"),
    [
        (Linen(), "got a Linen. Give its `apply`, such as `model.apply`"),
        (holding_arrays(), "got a Module. Give `lambda m, x: m\\(x\\)`"),
        ("mlp", "got a str"),
        ({"w": 1}, "got a dict"),
    ],
)
def test_functions_that_are_none(good, apply_fn, message):
    a, b, spec, x = good
    message = rf"apply_fn must be a function \(params, x\) -> outputs; {message}"
    with pytest.raises(ValueError, match=f"infer_perm_spec: {message}"):
        af.infer_perm_spec(apply_fn, a, x)
    with pytest.raises(ValueError, match=f"PermSpec: {message}"):
        dataclasses.replace(spec, apply_fn=apply_fn)
    if callable(apply_fn):
        with pytest.raises(ValueError, match=f"merge: {message}"):
            af.merge(a, b, None, x, apply_fn=apply_fn, method="average")


@pytest.fixture
def untyped():
    """Without the checks of annotations that tests have and users do not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Pair(NamedTuple):
    first: dict
    second: dict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, s, x: ([a, b], {"w": (None,)}, x), "perm_spec must be a PermSpec or None; got a dict"),
        (lambda a, b, s, x: ([a, b], "spec.json", x), "perm_spec must be a PermSpec or None; got a str"),
        (lambda a, b, s, x: ([a, b], x, s), "perm_spec must be a PermSpec or None; got an ArrayImpl"),
        (lambda a, b, s, x: ([a, s], None, x), r"params_b must be an array; got a PermSpec. The order is"),
        (lambda a, b, s, x: (a, s, x), "models must be a list of networks, .*; got a dict"),
        (lambda a, b, s, x: (Pair(a, b), s, x), "models must be a list of networks, .*; got a Pair"),
        (lambda a, b, s, x: (x, s, x), "models must be a list of networks"),
        (lambda a, b, s, x: ("models/", s, x), "models must be a list of networks, .*; got a str"),
        (lambda a, b, s, x: ([a, "b.safetensors"], s, x), "params_b must be a pytree of arrays; got a str"),
        (lambda a, b, s, x: ([a, Linen()], s, x), "params_b must be a pytree of arrays; got a Linen"),
        (lambda a, b, s, x: ([a, with_leaf(b, "head", "bias", "no")], s, x), r"head/bias'\] .* got a str"),
        (
            lambda a, b, s, x: ([a, with_leaf(b, "head", "bias", np.ones(3))], s, x),
            r"params_b\['params/head/bias'\] must be float32\[3\] as in params_a; got float64\[3\]",
        ),
        (
            lambda a, b, s, x: ([a, {**b, "params/head": {"bias": jnp.ones(3)}}], s, x),
            r"one leaf at each path; got 2 at 'params/head/bias'.*rename one",
        ),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_arguments_in_other_places(good, change, message):
    models, spec, batch = change(*good)
    with pytest.raises(ValueError, match=message):
        af.merge_many(models, spec, batch, method="average")


def test_merges_are_not_traced(good):
    a, b, spec, x = good
    with pytest.raises(ValueError, match="must be an array; got a .*Tracer. A merge runs outside of jax.jit"):
        jax.jit(lambda b: af.merge(a, b, spec, method="average").params)(b)
    with pytest.raises(ValueError, match=r"one array|batch must be an array; got a .*Tracer"):
        jax.jit(lambda x: af.merge(a, b, spec, x, method="average").params)(x)


@pytest.mark.parametrize("method", ["activation_matching", "simple_ensemble", "z_ensemble"])
def test_networks_that_overflow_by_themselves(method):
    def apply_fn(params, x):
        return jnp.tanh(x @ params["up"]) @ params["down"]

    models = [
        {"up": jnp.ones((3, 4), jnp.float16), "down": jnp.full((4, 2), s, jnp.float16)} for s in (1, 6e4)
    ]
    x = jnp.ones((5, 3), jnp.float16)
    spec = af.infer_perm_spec(apply_fn, models[0], x)
    result = af.merge(models[0], models[0], spec, x, method=method)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    if method == "activation_matching":  # finite, whatever the networks answer
        assert np.isfinite(af.merge(*models, spec, x, method=method).params["down"]).all()
        return
    with pytest.raises(ValueError, match="merge: the outputs of params_b on batch must be finite"):
        af.merge(*models, spec, x, method=method)


def test_a_method_that_moves_nothing_says_so():
    def apply_fn(params, x):
        hidden = jax.nn.relu(x @ params["up"])
        return hidden @ params["down"], hidden

    params = {"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2))}
    spec = af.infer_perm_spec(apply_fn, params, jnp.ones((5, 3)))
    with pytest.warns(UserWarning, match=r"weight_matching: .*no groups.*up axis 1 \(4\): an output"):
        af.merge(params, params, spec, method="weight_matching")
