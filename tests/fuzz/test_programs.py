"""Odd programs: a spec of one either keeps its function under every permutation, or is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import autofusion_jax as af
from tests.fuzz.harness import Tally, expect

pytestmark = pytest.mark.slow

N, D, H = 6, 5, 8
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def params_of(seed):
    rng = np.random.default_rng(seed)
    shapes = {"w": (D, H), "b": (H,), "v": (H, H), "c": (H,), "o": (H, 3)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


UNITS = {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "square": jnp.square, "sort": lambda h: jnp.sort(h, -1),
    "cumsum": lambda h: jnp.cumsum(h, -1), "flip": lambda h: h[..., ::-1],
    "roll": lambda h: jnp.roll(h, 1, -1),
    "softmax": jax.nn.softmax, "log softmax": jax.nn.log_softmax,
    "max": lambda h: h / h.max(-1, keepdims=True),
    "argmax": lambda h: h * h.argmax(-1, keepdims=True),
    "norm": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "centre": lambda h: h - h.mean(-1, keepdims=True),
    "over inputs": lambda h: (h - h.mean(0)) / (h.std(0) + 1),
    "halves": lambda h: jnp.concatenate([h[..., : H // 2] * h[..., H // 2 :]] * 2, -1),
    "interleaved": lambda h: h.reshape(*h.shape[:-1], -1, 2)[..., ::-1].reshape(h.shape),
    "heads": lambda h: jax.nn.softmax(h.reshape(*h.shape[:-1], 2, -1), -1).reshape(h.shape),
    "top": lambda h: jnp.where(h >= lax.top_k(h, 2)[0][..., -1:], h, 0),
    "first": lambda h: h * h[..., :1],
    "iota": lambda h: h * jnp.arange(H),
    "one hot": lambda h: h + jax.nn.one_hot(1, H),
    "scan": lambda h: lax.scan(lambda c, x: (c * 0.5 + x, c), jnp.zeros(len(h)), h.T)[1].T,
    "over steps": lambda h: lax.scan(lambda c, x: (jnp.tanh(c + x), c), jnp.zeros(H), h)[1],
    "while": lambda h: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c), h),
    "fft": lambda h: jnp.abs(jnp.fft.fft(h, axis=-1)),
    "fft over inputs": lambda h: jnp.abs(jnp.fft.fft(h, axis=0)),
    "cond": lambda h: lax.cond(h.sum() > 0, jnp.tanh, jnp.sin, h),
    "select": lambda h: jnp.where(h.sum(-1, keepdims=True) > 0, h, -h),
    "checkpoint": jax.checkpoint(jnp.tanh),
    "outer": lambda h: (h[..., :, None] * h[..., None, :]).sum(-1),
    "kron": lambda h: (h[..., :, None] * h[..., None, :])[..., 0],
    "cast": lambda h: h.astype(jnp.float16).astype(jnp.float32),
    "bits": lambda h: lax.bitcast_convert_type(lax.bitcast_convert_type(h, jnp.int32), jnp.float32),
    "custom": jax.nn.gelu, "glu": lambda h: jnp.tile(jax.nn.glu(h), 2),
    "window": lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 2), (1, 1), "SAME"),
    "clip": lambda h: jnp.clip(h, -1, 1),
    "median": lambda h: h - jnp.median(h, -1, keepdims=True),
    "product": lambda h: h + jnp.prod(h, -1, keepdims=True),
    "gather": lambda h: h[..., jnp.array([3, 1, 2, 0, 7, 6, 5, 4])],
    "pad": lambda h: jnp.pad(h, ((0, 0), (1, 0)))[:, :H],
    "stop": lax.stop_gradient, "nothing": lambda h: h * 0, "constant": lambda h: jnp.ones_like(h),
    "nan": lambda h: h * jnp.nan,
}  # fmt: skip
"""What stands between two layers: some reorder, some look at places, some at all units alike."""


def programs():
    for name, unit in UNITS.items():
        yield name, lambda p, x, f=unit: f(x @ p["w"] + p["b"]) @ p["o"]
        yield f"{name}, again", lambda p, x, f=unit: f(f(x @ p["w"] + p["b"]) @ p["v"] + p["c"]) @ p["o"]
        yield (
            f"{name}, skip",
            lambda p, x, f=unit: (lambda h: h + f(h @ p["v"] + p["c"]))(x @ p["w"]) @ p["o"],
        )
        yield f"{name}, tied", lambda p, x, f=unit: f(f(x @ p["w"]) @ p["v"]) @ p["v"].T @ p["o"]
        yield f"{name}, squared", lambda p, x, f=unit: f(x @ p["w"]) @ (p["v"] @ p["v"]) @ p["o"]
        yield f"{name}, of weights", lambda p, x, f=unit: x @ f(p["w"]) @ p["o"]
        yield f"{name}, mapped", lambda p, x, f=unit: jax.vmap(lambda r: f((r @ p["w"])[None])[0])(x) @ p["o"]


def test_specs_of_odd_programs(record_property):
    tally = Tally("programs: function kept under permutations", "infer_perm_spec|apply_fn|check_perm_spec")
    params = params_of(0)
    for name, apply_fn in programs():

        def infer(f=apply_fn):
            spec = af.infer_perm_spec(f, params, X, check=False)
            for seed in range(3):
                moved = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(seed)))
                before, after = f(params, X), f(moved, X)
                size = jnp.abs(before).max() + 1
                kept = jnp.allclose(before / size, after / size, atol=2e-4, equal_nan=True)
                expect(kept, f"changed by {float(jnp.abs(before - after).max())}: {spec.groups}")

        tally.run(name, infer)
    tally.done(record_property, least=250)


ODD_FUNCTIONS = (
    None, 1, "f", lambda: 0, lambda p: p["w"], lambda p, x, y: x, lambda p, x: None, lambda p, x: 1,
    lambda p, x: "x",
    lambda p, x: p, lambda p, x: x, lambda p, x: float(x.sum()), lambda p, x: np.asarray(x),
    lambda p, x: x @ p["missing"],
    lambda p, x: 1 / 0, lambda p, x: [x @ p["w"], None], lambda p, x: {"a": x @ p["w"], "b": (p["b"],)},
    print, len, dict,
    lambda p, x: jax.random.normal(jax.random.key(0), (3,)), lambda p, x: (x @ p["w"]).sum(),
    jax.jit(lambda p, x: x @ p["w"]),
    lambda p, x: x @ jnp.linalg.inv(p["v"][:D, :D]),
    lambda p, x: jax.grad(lambda q: (x @ q["w"]).sum())(p)["w"],
    lambda p, x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x) @ p["w"],
)  # fmt: skip
ODD_PARAMS = (
    None,
    {},
    [],
    1,
    "p",
    X,
    {"w": None},
    {"w": "x"},
    {"w": X.astype(str)},
    {1: X},
    {"w": jax.random.key(0)},
)


def test_odd_functions_and_parameters(record_property):
    tally = Tally("programs: odd functions and parameters", "apply_fn|params|inputs|x |leaf")
    good = lambda p, x: x @ p["w"]  # noqa: E731
    for number, function in enumerate(ODD_FUNCTIONS):
        tally.run(("f", number), lambda f=function: str(af.infer_perm_spec(f, params_of(0), X)))
    for number, params in enumerate(ODD_PARAMS):
        tally.run(("params", number), lambda p=params: str(af.infer_perm_spec(good, p, X)))
        for check in (True, False):
            call = lambda p=params, c=check: str(af.infer_perm_spec(good, p, X, check=c))  # noqa: E731
            tally.run(("params", number, check), call)
    for number, x in enumerate(
        (None, 1, "x", [], {}, X.astype(str), X * np.nan, X[:0], X[0], object(), X.tolist())
    ):
        tally.run(("x", number), lambda x=x: str(af.infer_perm_spec(good, params_of(0), x)))
    tally.done(record_property, least=60)
