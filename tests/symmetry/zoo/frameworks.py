"""One MLP, VGG and attention block in several frameworks and containers; recurrent and scanned layers."""

import collections
import dataclasses
import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from tests.symmetry.zoo.case import Case, Make, Move, join, of_function, of_module, randomise
from tests.symmetry.zoo.sequence import ALL, attend, attention_moves, exchange, factors, on, split_heads
from tests.symmetry.zoo.vision_transformers import MULTI, multi_head_moves

ROWS, IMAGE, TOKENS = (4, 3), (2, 6, 6, 3), (2, 5, 3)


def normal(shape):
    return jax.random.normal(jax.random.key(0), shape)


def flat(h):
    return h.reshape(2, -1)


def pool(h):
    return nn.max_pool(h, (2, 2), (2, 2))


def mlp_layers(dense, wrap=lambda f: f):
    """List the layers of an MLP for a `Sequential`; `wrap` makes a layer of a function."""
    return [dense(3, 6), wrap(jax.nn.gelu), dense(6, 5), wrap(jnp.tanh), dense(5, 3)]


def vgg_layers(conv, norm, dense, wrap=lambda f: f, pool=pool, flat=flat):
    """List the layers of a VGG for a `Sequential`; `pool` and `flat` are layers."""
    convs = [[conv(i, o), norm(o), wrap(jax.nn.relu)] for i, o in ((3, 4), (4, 6))]
    return [*convs[0], pool, *convs[1], flat, dense(54, 3)]


LINEN_MLP = nn.Sequential(mlp_layers(lambda _, size: nn.Dense(size)))
LINEN_VGG = nn.Sequential(
    vgg_layers(
        lambda _, size: nn.Conv(size, (3, 3)),
        lambda _: nn.BatchNorm(use_running_average=True),
        lambda _, size: nn.Dense(size),
    )
)


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8, name="embed")(x)
        return nn.Dense(3, name="head")(h + MULTI(name="attn")(nn.LayerNorm(name="ln")(h)))


class NnxAttention(nnx.Module):
    def __init__(self, r):
        self.embed, self.ln = nnx.Linear(3, 8, rngs=r), nnx.LayerNorm(8, rngs=r)
        self.attn = nnx.MultiHeadAttention(2, 8, qkv_features=6, decode=False, rngs=r)
        self.head = nnx.Linear(8, 3, rngs=r)

    def __call__(self, x):
        h = self.embed(x)
        return self.head(h + self.attn(self.ln(h)))


def nnx_mlp(r):
    return nnx.Sequential(*mlp_layers(functools.partial(nnx.Linear, rngs=r)))


def nnx_vgg(r):
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=r)
    norm, dense = functools.partial(nnx.BatchNorm, rngs=r), functools.partial(nnx.Linear, rngs=r)
    return nnx.Sequential(*vgg_layers(conv, norm, dense))


def from_nnx(build: Any, x_shape: tuple[int, ...], pure: bool = True) -> Make:
    """Make an nnx module of its parameters and statistics, as a pure dict or as an `nnx.State`."""

    def make():
        model = build(nnx.Rngs(0))
        model.eval()
        graph, state, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
        params = randomise(nnx.to_pure_dict(state) if pure else state)
        return (lambda p, x: nnx.merge(graph, p, rest)(x)), params, normal(x_shape)

    return make


def eqx_mlp(key):
    return eqx.nn.Sequential(mlp_layers(functools.partial(eqx.nn.Linear, key=key), eqx.nn.Lambda))


def eqx_vgg(key):
    conv = functools.partial(eqx.nn.Conv2d, kernel_size=3, padding=1, use_bias=False, key=key)
    norm = functools.partial(eqx.nn.BatchNorm, axis_name="batch", mode="batch")
    dense, wrap = functools.partial(eqx.nn.Linear, key=key), eqx.nn.Lambda
    return eqx.nn.Sequential(vgg_layers(conv, norm, dense, wrap, eqx.nn.MaxPool2d(2, 2), wrap(jnp.ravel)))


class EqxAttention(eqx.nn.StatefulLayer):
    layers: dict[str, eqx.Module]

    def __init__(self, key):
        attention = eqx.nn.MultiheadAttention(2, 8, qk_size=3, vo_size=3, key=key)
        dense = {"embed": eqx.nn.Linear(3, 8, key=key), "head": eqx.nn.Linear(8, 3, key=key)}
        self.layers = {"ln": eqx.nn.LayerNorm(8), "attn": attention, **dense}

    def __call__(self, x, state):
        h = jax.vmap(self.layers["embed"])(x)
        n = jax.vmap(self.layers["ln"])(h)
        return jax.vmap(self.layers["head"])(h + self.layers["attn"](n, n, n)), state


def from_equinox(build: Any, x_shape: tuple[int, ...]) -> Make:
    """Make an Equinox module in inference mode; its running statistics are parameters."""

    def make():
        model, state = eqx.nn.make_with_state(build)(jax.random.key(0))
        params, static = eqx.partition((eqx.nn.inference_mode(model), state), eqx.is_inexact_array)

        def apply_fn(p, x):
            net, state = eqx.combine(p, static)
            return jax.vmap(lambda row: net(row, state)[0], axis_name="batch")(x)

        model, state = randomise(params)
        return apply_fn, (model, jax.tree.map(jnp.abs, state)), normal(x_shape)

    return make


def hk_vgg(x):
    for i, width in enumerate((4, 6)):
        norm = hk.BatchNorm(True, True, 0.9, name=f"norm_{i}")
        x = jax.nn.relu(norm(hk.Conv2D(width, 3, name=f"conv_{i}")(x), hk.running_init()))
        x = x if i else pool(x)
    return hk.Linear(3, name="head")(flat(x))


def hk_attention(x):
    h = hk.Linear(8, name="embed")(x)
    n = hk.LayerNorm(-1, True, True, name="ln")(h)
    init = hk.initializers.RandomNormal()
    attention = hk.MultiHeadAttention(2, 3, w_init=init, with_bias=False, model_size=8, name="attn")
    return hk.Linear(3, name="head")(h + attention(n, n, n))


def from_haiku(net: Any, x_shape: tuple[int, ...]) -> Make:
    """Make a Haiku function; its state, which is not written, counts among the parameters."""

    def make():
        x = normal(x_shape)
        init, apply = hk.without_apply_rng(hk.transform_with_state(net))
        params, state = (randomise(tree) for tree in init(jax.random.key(0), x))
        params = {"params": params, "state": jax.tree.map(jnp.abs, state)}
        return (lambda p, x: apply(p["params"], p["state"], x)[0]), params, x

    return make


Pair = collections.namedtuple("Pair", ("kernel", "bias"))
Layer = jax.tree_util.register_dataclass(dataclasses.make_dataclass("Layer", ("kernel", "bias")))
CONTAINERS = {
    "dict": (lambda w, b: {"kernel": w, "bias": b}, lambda layer: (layer["kernel"], layer["bias"])),
    "tuples": (lambda w, b: (w, b), lambda layer: layer),
    "named_tuple": (Pair, lambda layer: layer),
    "dataclass": (Layer, lambda layer: (layer.kernel, layer.bias)),
}


def bare_mlp(container: str) -> Make:
    """Make tanh layers, each in a container of this kind; the containers stand in a list."""
    pack, read = CONTAINERS[container]

    def apply_fn(p, x):
        (w_0, b_0), (w_1, b_1), (w_2, b_2) = map(read, p)
        return jnp.tanh(jnp.tanh(x @ w_0 + b_0) @ w_1 + b_1) @ w_2 + b_2

    def make():
        layers = [pack(jnp.zeros(shape), jnp.zeros(shape[1:])) for shape in ((3, 6), (6, 5), (5, 3))]
        return apply_fn, randomise(layers), normal(ROWS)

    return make


def bare_vgg(p, x):
    for i in range(2):
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, p[f"conv_{i}/w"], (1, 1), "SAME", dimension_numbers=dims)
        mean, var, scale, bias = (p[f"norm_{i}/{leaf}"] for leaf in STATS)
        x = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias)
        x = x if i else pool(x)
    return flat(x) @ p["head/w"]


def bare_attention(p, x):
    h = x @ p["embed/w"]
    q, k, v = (split_heads(h @ p[f"attn/{name}/w"], 2) for name in ("query", "key", "value"))
    return (h + attend(q, k, v) @ p["attn/linear/w"]) @ p["head/w"]


def mlp_case(
    make: Make, layer: str, names: Any = (0, 1, 2), leaves: str = "kernel bias", out: int = 1
) -> Case:
    """Give the case of an MLP whose layers of these names stand at the path `layer`."""
    (a, b, c), (w, bias) = (layer.format(name) for name in names), leaves.split()
    move_1 = on(6, f"{a}/{w}@{out} {a}/{bias}@0 {b}/{w}@{1 - out}")
    move_2 = on(5, f"{b}/{w}@{out} {b}/{bias}@0 {c}/{w}@{1 - out}")
    return Case(make, (5, 6), "Two hidden layers; inputs and outputs are fixed.", moves=(move_1, move_2))


def vgg_case(
    make: Make, kernel: str, rest: str, layers: Any = (0, 4, 8), norms: Any = (1, 5), out: int = 3
) -> Case:
    """Give the case of a VGG; `rest` are places of channels, {0} a convolution, {1} norm, {2} state."""
    first, second, head = (kernel.format(layer) for layer in layers)
    rest_1, rest_2 = (rest.format(layers[i], norms[i], 2 * i + 1) for i in range(2))
    rows = factors(f"{head}@0", (9, 6), (ALL, "unit")) if out else factors(f"{head}@1", (6, 9), ("unit", ALL))
    move_1 = on(4, f"{first}@{out} {rest_1} {second}@{2 if out else 1}")
    move_2 = join(on(6, f"{second}@{out} {rest_2}"), exchange(rows, {"unit": 0}, {"unit": 5}))
    why = "The channels of each convolution and its norm, statistics too; the head reads pixels x channels."
    return Case(make, (4, 6), why, moves=(move_1, move_2))


def attention_case(make: Make, stream: str, moves: tuple[Move, ...], at: str = "") -> Case:
    """Give the case of an attention block; `stream` names the places of its residual stream."""
    why = "The stream from embedding to head; heads, with query-key units and value units nested in them."
    return Case(make, (2, 3, 3, 8), why, (3, 3), (on(8, stream, at), *moves))


def flat_attention_case(
    make: Make, stream: str, names: str = "query key value linear", at: str = "", w: str = "w", out: int = 1
) -> Case:
    """Give the case of an attention block whose projections of these names have flat heads, and no bias."""
    q, k, v, o = (f"attn/{name}/{w}" for name in names.split())
    qk, vo = factors(f"{q}@{out} {k}@{out}", (2, 3)), factors(f"{v}@{out} {o}@{1 - out}", (2, 3))
    stream += f" embed/{w}@{out} {q}@{1 - out} {k}@{1 - out} {v}@{1 - out} {o}@{out} head/{w}@{1 - out}"
    return attention_case(make, stream, attention_moves(qk, vo, at=at), at)


STREAM = "embed/kernel@1 embed/bias@0 ln/scale@0 ln/bias@0 attn/query/kernel@0 attn/key/kernel@0 "
STREAM += "attn/value/kernel@0 attn/out/kernel@2 attn/out/bias@0 head/kernel@0"
NAMED = ("conv_0", "conv_1", "head"), ("norm_0", "norm_1")
STATS = ("mean", "var", "scale", "bias")
NNX_VGG = "layers/{0}/bias@0 layers/{1}/scale@0 layers/{1}/bias@0 layers/{1}/mean@0 layers/{1}/var@0"
LINEN_VGG_PLACES = "params/layers_{0}/bias@0 params/layers_{1}/scale@0 params/layers_{1}/bias@0 "
LINEN_VGG_PLACES += "batch_stats/layers_{1}/mean@0 batch_stats/layers_{1}/var@0"
EQX_VGG = "0/layers/{1}/weight@0 0/layers/{1}/bias@0 1/{2}/0@0 1/{2}/1@0"
HK_VGG = "params/{0}/b@0 params/{1}/scale@3 params/{1}/offset@3 "
HK_VGG += "state/{1}/~/mean_ema/average@3 state/{1}/~/var_ema/average@3"
BARE_VGG = "{1}/scale@0 {1}/bias@0 {1}/mean@0 {1}/var@0"
VGG_SHAPES = {"conv_0/w": (3, 3, 3, 4), "conv_1/w": (3, 3, 4, 6), "head/w": (54, 3)}
VGG_SHAPES |= {f"norm_{i}/{leaf}": (4 + 2 * i,) for leaf in STATS for i in range(2)}
BARE_ATTENTION = {f"attn/{name}/w": (8, 6) for name in ("query", "key", "value")}
BARE_ATTENTION |= {"embed/w": (3, 8), "attn/linear/w": (6, 8), "head/w": (8, 3)}
EQX_ATTENTION = ("query_proj key_proj value_proj output_proj", "0/layers/", "weight", 0)

CASES: dict[str, Case] = {
    "mlp_linen": mlp_case(of_module(LINEN_MLP, ROWS), "params/layers_{}", (0, 2, 4)),
    "mlp_nnx": mlp_case(from_nnx(nnx_mlp, ROWS), "layers/{}", (0, 2, 4)),
    "mlp_nnx_state": mlp_case(
        from_nnx(nnx_mlp, ROWS, pure=False), "layers/{}", (0, 2, 4), "kernel/value bias/value"
    ),
    "mlp_equinox": mlp_case(from_equinox(eqx_mlp, ROWS), "0/layers/{}", (0, 2, 4), "weight bias", out=0),
    "mlp_haiku": mlp_case(
        from_haiku(lambda x: hk.nets.MLP([6, 5, 3])(x), ROWS), "params/mlp/~/linear_{}", leaves="w b"
    ),
    "mlp_tuples": mlp_case(bare_mlp("tuples"), "{}", leaves="0 1"),
    **{f"mlp_{name}": mlp_case(bare_mlp(name), "{}") for name in ("dict", "named_tuple", "dataclass")},
    "vgg_linen": vgg_case(of_module(LINEN_VGG, IMAGE), "params/layers_{}/kernel", LINEN_VGG_PLACES),
    "vgg_nnx": vgg_case(from_nnx(nnx_vgg, IMAGE), "layers/{}/kernel", NNX_VGG),
    "vgg_equinox": vgg_case(from_equinox(eqx_vgg, (2, 3, 6, 6)), "0/layers/{}/weight", EQX_VGG, out=0),
    "vgg_haiku": vgg_case(from_haiku(hk_vgg, IMAGE), "params/{}/w", HK_VGG, *NAMED),
    "vgg_bare": vgg_case(of_function(bare_vgg, VGG_SHAPES, IMAGE), "{}/w", BARE_VGG, *NAMED),
    "attention_linen": attention_case(
        of_module(LinenAttention(), TOKENS), STREAM, multi_head_moves("params/attn/"), "params/"
    ),
    "attention_nnx": attention_case(from_nnx(NnxAttention, TOKENS), STREAM, multi_head_moves("attn/")),
    "attention_equinox": flat_attention_case(
        from_equinox(EqxAttention, TOKENS), "embed/bias@0 ln/weight@0 ln/bias@0", *EQX_ATTENTION
    ),
    "attention_haiku": flat_attention_case(
        from_haiku(hk_attention, TOKENS), "embed/b@0 ln/scale@0 ln/offset@0", at="params/"
    ),
    "attention_bare": flat_attention_case(of_function(bare_attention, BARE_ATTENTION, TOKENS), ""),
}
