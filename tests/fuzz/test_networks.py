"""Networks, batches and labels of every wrong form through the front door."""

import copy
import dataclasses
from types import SimpleNamespace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.trees import all_finite
from tests.fuzz.harness import Tally, expect
from tests.merging.test_contracts import METHODS, NEED_BASE

pytestmark = pytest.mark.slow


def apply_fn(params, x):
    return jax.nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"]) @ params["down"]["kernel"]


def network(seed):
    rng = np.random.default_rng(seed)
    down, bias, up = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (4,), (5, 4)))
    return {"down": {"kernel": down}, "up": {"bias": bias, "kernel": up}}


X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
ODD_LEAVES = (
    None, "x", b"x", 1, 1.5, True, 1j, object(), lambda x: x, [], {}, (), np.nan, np.inf, jax.random.key(0),
    np.zeros((4, 3)), np.zeros((3, 4), np.float32), np.zeros(0, np.float32), np.float32(1),
    np.ones((4, 3), np.int8),
    np.array(["a"]), np.array([None, 1]), np.full((4, 3), np.nan, np.float32), np.ones((4, 3), np.complex64),
    np.ones((4, 3), np.float16), np.ones((4, 3), np.int64), np.array("2020-01-01", "datetime64[D]"),
    jax.ShapeDtypeStruct((4, 3), np.float32), np.ma.masked_array(np.ones((4, 3), np.float32)), np.float32,
)  # fmt: skip
PATHS = (("down", "kernel"), ("up", "bias"), ("up", "kernel"))


def changed(params, path, leaf, kind):
    other = copy.deepcopy(params)
    inner = other[path[0]]
    if kind == "replace":
        inner[path[1]] = leaf
    elif kind == "remove":
        del inner[path[1]]
    elif kind == "add":
        inner["extra"] = leaf
    elif kind == "collide":
        other["/".join(path)] = leaf
    elif kind == "wrap":
        other[path[0]] = [inner, leaf]
    elif kind == "whole":
        return leaf
    return other


def merge(a, b, method, **more):
    result = af.merge(a, b, None, method=method, apply_fn=apply_fn, **more)
    expect(all_finite(jax.tree.leaves(result.params)), "not finite")
    same = jax.tree.structure(result.params) == jax.tree.structure(a)
    expect(same, "another structure")


def test_structures(record_property):
    tally = Tally("networks: leaves and containers")
    named = r"params_[ab]|base|models|leaf|perm_spec|path"
    for method in ("average", "ties", "slerp"):
        base = {"base": network(9)} if method in NEED_BASE else {}
        for kind in ("replace", "remove", "add", "collide", "wrap", "whole"):
            for path in PATHS:
                for leaf in ODD_LEAVES:
                    bad = changed(network(1), path, leaf, kind)
                    what = (method, kind, path, str(leaf)[:40])
                    tally.run(what, lambda b=bad, m=method, k=base: merge(network(0), b, m, **k), named)
                    tally.run(
                        (*what, "A"), lambda b=bad, m=method, k=base: merge(b, network(0), m, **k), named
                    )
    tally.done(record_property, least=2500)


ODD_BATCHES = (
    "x", 1, 1.5, True, object(), [], [[]], (), {}, {"x": X}, (X, X[:, 0]), [X, X], [X, X[:3]], iter([X]),
    (X for _ in "a"),
    X[0], X[:0], X[:, :4], X[None], X.astype(str), X.astype(object), X * np.nan, X * np.inf,
    np.array(["a", None], object),
    X > 0, X.astype(np.uint8), X.astype(np.complex64), X.astype(np.float16), X.astype(np.float64),
    X.astype(np.int64),
    SimpleNamespace(shape=(6, 5)), jax.ShapeDtypeStruct((6, 5), np.float32), jax.random.key(0), range(6),
    b"x", np.float32,
    X.tolist(), np.ma.masked_array(X), memoryview(X), X[:, ::-1], np.asfortranarray(X), X[:1], len,
)  # fmt: skip
ODD_LABELS = (
    "x", 1, True, [], [0] * 5, [0] * 6, [0] * 7, [3] * 6, [-1] * 6, [0.0] * 6, [True] * 6,
    np.eye(3)[[0, 1, 2, 0, 1, 2]],
    np.zeros((6, 1), int), np.zeros(6, np.uint8), np.zeros(6, np.int64), np.full(6, 2**40), object(), {},
    [None] * 6,
    ["a"] * 6, np.zeros(6, object), jnp.zeros(6, int), np.full(6, np.nan), iter([0] * 6), range(6),
    (0, 1, 2, 0, 1, 2),
)  # fmt: skip


def test_batches(record_property):
    tally = Tally("batches and labels")
    a, b = network(0), network(1)
    for method in ("average", "confidence_ensemble", "max_model"):
        for number, batch in enumerate(ODD_BATCHES):
            call = lambda x=batch, m=method: af.merge(a, b, None, x, method=m, apply_fn=apply_fn)  # noqa: E731
            tally.run((method, "batch", number, type(batch)), call, "batch")
            for labels in (None, [0] * 6):
                call = lambda x=batch, y=labels, m=method: af.merge(  # noqa: E731
                    a, b, None, x, labels=y, method=m, apply_fn=apply_fn
                )
                tally.run((method, "batch, labels", number), call, "batch", "labels")
        for number, labels in enumerate(ODD_LABELS):
            call = lambda y=labels, m=method: af.merge(a, b, None, X, labels=y, method=m, apply_fn=apply_fn)  # noqa: E731
            tally.run((method, "labels", number, type(labels)), call, "labels")
    tally.done(record_property, least=400)


ODD_ARGUMENTS = (
    None,
    0,
    1,
    "x",
    b"x",
    True,
    1.5,
    [],
    {},
    (),
    object(),
    X,
    np.nan,
    lambda: 0,
    jax.random.key(0),
    network(2),
)


def test_arguments(record_property):
    tally = Tally("arguments of the front door")
    a, b = network(0), network(1)
    spec = af.infer_perm_spec(apply_fn, a, X)
    for argument in (
        "method",
        "key",
        "labels",
        "base",
        "align",
        "correction",
        "apply_fn",
        "promote",
        "progress",
    ):
        for value in ODD_ARGUMENTS:
            call = lambda n=argument, v=value: af.merge(a, b, spec, X, **{"method": "average", n: v})  # noqa: E731
            tally.run((argument, str(value)[:40]), call, argument)
    for value in ODD_ARGUMENTS:
        tally.run(("perm_spec", value), lambda v=value: af.merge(a, b, v, X, method="average"), "perm_spec")
        tally.run(
            ("models", value),
            lambda v=value: af.merge_many(v, spec, X, method="average"),
            "models",
            "params_a",
        )
        tally.run(
            ("keys", value),
            lambda v=value: af.merge_repeats([a, b], spec, X, keys=v, method="average"),
            "keys",
        )
        tally.run(("infer f", value), lambda v=value: af.infer_perm_spec(v, a, X), "apply_fn")
        tally.run(
            ("infer x", value), lambda v=value: af.infer_perm_spec(apply_fn, a, v), "x ", "inputs", "apply_fn"
        )
        tally.run(
            ("infer p", value), lambda v=value: af.infer_perm_spec(apply_fn, v, X), "params", "apply_fn"
        )
        tally.run(("spec f", value), lambda v=value: dataclasses.replace(spec, apply_fn=v), "apply_fn")
    tally.done(record_property, least=200)


LEAFWISE = (
    "average", "slerp", "karcher", "multislerp", "model_stock", "task_arithmetic", "ties", "dare",
    "breadcrumbs",
    "magmax", "consensus", "sce", "tsv", "iso_c", "iso_cts",
)  # fmt: skip


@st.composite
def leaves(draw):
    kinds = st.sampled_from([0.0, 1.0, -1.0, 1e-45, 1e-30, 3e38, -3e38, 1e19, 6e4, 1e-8])
    return np.array(draw(st.lists(kinds, min_size=6, max_size=6)), np.float32)


def test_values(record_property):
    """Values of every size in float32, float16 and bfloat16: finite, or refused with the leaf's name."""
    tally = Tally("values of every size, leaf-wise methods", "params", "base", "overflow", "finite")

    @hypothesis.settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @hypothesis.given(
        st.tuples(leaves(), leaves(), leaves()), st.sampled_from([np.float32, np.float16, jnp.bfloat16])
    )
    def draw(values, dtype):
        most = 6e4 if dtype == np.float16 else 3e38
        base, *models = ({"w": np.clip(v, -most, most).astype(dtype).reshape(2, 3)} for v in values)

        def merge(name):
            more = {"base": base} if name in NEED_BASE else {}
            result = af.merge(*models, None, method=name, **more)
            expect(np.isfinite(np.asarray(result.params["w"], np.float32)).all(), f"{name} {result.params}")
            expect(result.params["w"].dtype == dtype, f"{name} {result.params['w'].dtype}")

        for name in LEAFWISE:
            tally.run((name, dtype.__name__, [v.tolist() for v in values]), lambda n=name: merge(n))

    draw()
    tally.done(record_property, least=2000)


HOSTILE = {
    "nan": lambda v: np.where(np.arange(v.size).reshape(v.shape) == 0, np.nan, v).astype(v.dtype),
    "inf": lambda v: np.where(np.arange(v.size).reshape(v.shape) == 0, np.inf, v).astype(v.dtype),
    "zeros": np.zeros_like,
    "subnormal": lambda v: np.full_like(v, 1e-40),
    "huge": lambda v: v * np.float32(1e19),
    "largest": lambda v: np.full_like(v, 3e38),
    "one largest": lambda v: np.where(np.arange(v.size).reshape(v.shape) == 0, 3e38, v).astype(v.dtype),
    "tiny": lambda v: v * np.float32(1e-20),
    "float16": lambda v: v.astype(np.float16),
    "bfloat16": lambda v: v.astype(jnp.bfloat16),
    "float16 6e4": lambda v: np.full(v.shape, 6e4, np.float16),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_networks(kind, record_property, mlp):
    """All methods, both networks (and the base) of one kind."""
    from tests.conftest import inputs_for, params_for
    from tests.merging.test_contracts import options_for

    tally = Tally(f"all methods, networks {kind}", "params", "base", "overflow", "finite", "network")
    a, b, base = (
        jax.tree.map(lambda v: HOSTILE[kind](np.asarray(v)), params_for(mlp, seed)) for seed in (0, 1, 9)
    )

    def merge(name):
        options = options_for(name, mlp) | ({"base": base} if name in NEED_BASE else {})
        result = af.merge(a, b, mlp.perm_spec, inputs_for(mlp), method=name, **options)
        expect(kind not in ("nan", "inf"), "a network that is not finite was taken")
        expect(all_finite(result.params), "not finite")

    for name in METHODS:
        tally.run(name, lambda n=name: merge(n))
    tally.done(record_property, least=49)
