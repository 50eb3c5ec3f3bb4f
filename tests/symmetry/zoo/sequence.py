"""Sequence models and routing, with the symmetry groups of each derived by hand."""

import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.symmetry.zoo.case import Case, Make, Move, join, of_function, of_module, randomise, swap, tie

IDS = np.random.default_rng(1).integers(0, 11, (2, 5))
PAIR = tuple(np.random.default_rng(2).normal(size=(2, 2, 3)).astype(np.float32))
CAUSAL = np.where(np.tril(np.ones((5, 5), bool)), 0.0, -1e9).astype(np.float32)
ALL, HEAD_UNIT = slice(None), ("head", "unit")
Place: TypeAlias = tuple[str, int | None, tuple[int, ...], tuple[Any, ...]]
Places: TypeAlias = Sequence[Place]


def given(x: Any, net: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> Make:
    """Make a linen module, or a function of leaves with these shapes, whose inputs are `x`."""

    def make():
        inputs = jax.tree.map(jnp.asarray, x)
        if shapes is None:
            return net.apply, randomise(jax.eval_shape(net.init, jax.random.key(0), inputs)), inputs
        return *of_function(net, shapes)()[:2], inputs

    return make


def on(size: int, places: str, at: str = "") -> Move:
    """Exchange the first and the last of `size` units at several places `path@axis`, all below `at`."""
    return tie(swap(size, 0, size - 1), *(at + place for place in places.split()))


def factors(places: str, shape: tuple[int, ...] = (2, 4), where: tuple[Any, ...] = HEAD_UNIT) -> list[Place]:
    """Say that places `path@axis` (`path@`: the whole leaf) have these factors, and which are which."""
    split = (place.rpartition("@") for place in places.split())
    return [(path, int(axis) if axis else None, shape, where) for path, _, axis in split]


def exchange(places: Places, i: dict[str, Any], j: dict[str, Any], at: str = "") -> Move:
    """Exchange what stands at the factors `i` and `j` of every place; factors not named: all of them."""
    moves = []
    for path, axis, shape, where in places:
        index = np.arange(math.prod(shape)).reshape(shape)
        one, other = (tuple(k.get(f, ALL) if isinstance(f, str) else f for f in where) for k in (i, j))
        index[one], index[other] = index[other].copy(), index[one].copy()
        if one != other:
            moves.append({at + path: ((axis, index if axis is None else index.ravel()),)})
    return join(*moves)


def attention_moves(qk: Places, v: Places, both: Places = (), at: str = "") -> tuple[Move, ...]:
    """Exchange whole heads; two query-key units inside head 1 only; two value units inside head 0 only."""
    first, second = {"part": slice(2), "head": 1}, {"part": 2, "head": 0}
    return (
        exchange([*qk, *v, *both], {"head": 0}, {"head": 1}, at),
        exchange([*qk, *both], first | {"unit": 0}, first | {"unit": 2}, at),
        exchange([*v, *both], second | {"unit": 1}, second | {"unit": 2}, at),
    )


def split_heads(h, num):
    return h.reshape(*h.shape[:2], num, -1)


def attend(q, k, v, bias=0.0):
    """Attention over [batch, tokens, heads, units]; the heads come back side by side."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores + bias, axis=-1), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def rms(scale, h):
    return h * jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6) * scale


class GPT2(nn.Module):
    @nn.compact
    def __call__(self, ids):
        wte = nn.Embed(11, 8, name="wte")
        h = wte(ids) + self.param("wpe", nn.initializers.normal(), (5, 8))
        for i in range(2):
            qkv = nn.Dense(24, name=f"h_{i}_attn")(nn.LayerNorm(name=f"h_{i}_ln_1")(h))
            q, k, v = (split_heads(part, 2) for part in jnp.split(qkv, 3, axis=-1))
            h = h + nn.Dense(8, name=f"h_{i}_proj")(attend(q, k, v, CAUSAL))
            up = nn.gelu(nn.Dense(16, name=f"h_{i}_fc")(nn.LayerNorm(name=f"h_{i}_ln_2")(h)))
            h = h + nn.Dense(8, name=f"h_{i}_down")(up)
        return wte.attend(nn.LayerNorm(name="ln_f")(h))


def rope(h):
    half = h.shape[-1] // 2
    angle = jnp.arange(h.shape[1])[:, None] * 100.0 ** (-jnp.arange(half) / half)
    cos, sin = (jnp.concatenate([f(angle)] * 2, axis=-1)[:, None] for f in (jnp.cos, jnp.sin))
    return h * cos + jnp.concatenate([-h[..., half:], h[..., :half]], axis=-1) * sin


def llama(p, ids):
    h = p["embed"][ids]
    n = rms(p["norm_1"], h)
    q, k, v = (split_heads(n @ p[name], num) for name, num in (("q", 6), ("k", 2), ("v", 2)))
    k, v = jnp.repeat(rope(k), 3, axis=2), jnp.repeat(v, 3, axis=2)
    h = h + attend(rope(q), k, v, CAUSAL) @ p["o"]
    n = rms(p["norm_2"], h)
    h = h + (jax.nn.silu(n @ p["gate"]) * (n @ p["up"])) @ p["down"]
    return rms(p["norm_3"], h) @ p["head"]


def t5_encoder(p, ids):
    h = p["embed"][ids]
    n = rms(p["norm_1"], h)
    distance = jnp.arange(5)[None] - jnp.arange(5)[:, None]
    log_bucket = 1 + jnp.floor(jnp.log2(jnp.maximum(jnp.abs(distance), 1))).astype(int)
    bias = p["bias"][jnp.where(distance == 0, 0, log_bucket + 3 * (distance > 0))].transpose(2, 0, 1)
    h = h + attend(*(split_heads(n @ p[name], 2) for name in "qkv"), bias) @ p["o"]
    h = h + jax.nn.relu(rms(p["norm_2"], h) @ p["up"]) @ p["down"]
    return rms(p["norm_3"], h).mean(axis=1) @ p["head"]


def vanilla_rnn(p, x):
    def step(h, x_t):
        return jnp.tanh(x_t @ p["w"] + h @ p["u"] + p["b"]), None

    return jax.lax.scan(step, jnp.broadcast_to(p["h0"], (2, 6)), x.swapaxes(0, 1))[0] @ p["head"]


def moe(p, x, route):
    h = x @ p["embed"]
    up = jax.nn.relu(jnp.einsum("btd,edf->btef", h, p["up"]) + p["bias"])
    return (h + jnp.einsum("btef,efd,bte->btd", up, p["down"], route(h @ p["router"]))) @ p["head"]


def top_2(logits):
    values, index = jax.lax.top_k(logits, 2)
    return jnp.einsum("btk,btke->bte", jax.nn.softmax(values), jax.nn.one_hot(index, logits.shape[-1]))


def moe_dispatch(p, x):
    h = (x @ p["embed"]).reshape(10, 6)
    gates, index = jax.lax.top_k(jax.nn.softmax(h @ p["router"]), 2)
    chosen = jax.nn.one_hot(index, 4)
    place = jnp.cumsum(chosen.reshape(20, 4), axis=0).reshape(10, 2, 4) * chosen - 1
    slots = jax.nn.one_hot(place.astype(int), 5)  # [token, choice, expert, place]; the sixth is dropped
    up = jnp.einsum("nkec,nd,edf->ecf", slots, h, p["up"]) + p["bias"][:, None]
    return (h + jnp.einsum("nkec,nk,ecf,efd->nd", slots, gates, jax.nn.relu(up), p["down"])) @ p["head"]


def loops(p, x):
    def turn(carry):
        return carry[0] + 1, jnp.tanh(carry[1] @ p["w"] + p["b"])

    def unfinished(carry):
        return (carry[0] < 3) & (jnp.sum(carry[1] ** 2) > 1e-3)

    _, h = jax.lax.while_loop(unfinished, turn, (0, jnp.tanh(x @ p["embed"])))
    one, other = (lambda r: jax.nn.relu(r @ p["a"]) @ p["c"]), (lambda r: jax.nn.silu(r @ p["d"]) @ p["e"])
    return jax.lax.map(lambda row: jax.lax.cond(row.mean() > 0, one, other, row), h)


def lora(p, x):
    h = jax.nn.relu(x @ (p["w_1"] + 0.5 * p["a_1"] @ p["b_1"]))
    return h @ p["w_2"] + 0.5 * (h @ p["a_2"]) @ p["b_2"]


def towers(p, x):
    both = jnp.concatenate([jnp.tanh(x[name] @ p[name]) for name in ("left", "right")], axis=-1)
    return jax.nn.relu(both @ p["w"]) @ p["head"]


CONV1D = [nn.Conv(6, (3,)), nn.relu, nn.Conv(5, (3,), 2), nn.relu, lambda h: h.reshape(2, -1), nn.Dense(3)]
GPT2_STREAM = "wte/embedding@1 wpe@1 ln_f/scale@0 ln_f/bias@0" + "".join(
    f" h_{i}_ln_1/scale@0 h_{i}_ln_1/bias@0 h_{i}_attn/kernel@0 h_{i}_proj/kernel@1 h_{i}_proj/bias@0"
    f" h_{i}_ln_2/scale@0 h_{i}_ln_2/bias@0 h_{i}_fc/kernel@0 h_{i}_down/kernel@1 h_{i}_down/bias@0"
    for i in range(2)
)
C_ATTN = factors("attn/kernel@1 attn/bias@0", (3, 2, 4), ("part", *HEAD_UNIT))
T5 = {"embed": (11, 6), "q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 6)}
T5 |= {"norm_1": (6,), "norm_2": (6,), "norm_3": (6,)}
T5_STREAM = "embed@1 norm_1@0 norm_2@0 norm_3@0 q@0 k@0 v@0 o@1"
LLAMA = {"embed": (11, 8), "norm_1": (8,), "norm_2": (8,), "norm_3": (8,), "q": (8, 24), "k": (8, 8)}
LLAMA |= {"v": (8, 8), "o": (24, 8), "gate": (8, 12), "up": (8, 12), "down": (12, 8), "head": (8, 11)}
LLAMA_Q, LLAMA_O = (factors(place, (2, 3, 4), ("head", "query", "unit")) for place in ("q@1", "o@0"))
LOOPS = {"embed": (3, 6), "w": (6, 6), "b": (6,), "a": (6, 5), "c": (5, 3), "d": (6, 7), "e": (7, 3)}
LORA = {"w_1": (3, 6), "a_1": (3, 2), "b_1": (2, 6), "w_2": (6, 4), "a_2": (6, 3), "b_2": (3, 4)}
RNN = {"w": (3, 6), "u": (6, 6), "b": (6,), "h0": (6,), "head": (6, 3)}
MOE = {"embed": (3, 6), "router": (6, 4), "up": (4, 6, 5), "bias": (4, 5), "down": (4, 5, 6), "head": (6, 3)}
MOE_UNITS = factors("up@", (4, 6, 5), ("expert", ALL, "unit")) + factors("bias@", (4, 5), ("expert", "unit"))
MOE_UNITS += factors("down@", (4, 5, 6), ("expert", "unit", ALL))
MOE_CASE = (
    (4, 5, 6),
    "Experts: router columns, leading axis of the expert weights; hidden units nested in them; the stream.",
    (5,),
    (
        on(4, "router@1 up@0 bias@0 down@0"),
        exchange(MOE_UNITS, {"expert": 2, "unit": 0}, {"expert": 2, "unit": 4}),
        on(6, "embed@1 router@0 up@1 down@2 head@0"),
    ),
)
GATED, BAG = {"a": (3, 5), "b": (3, 5), "c": (5, 3)}, {"embed": (11, 6), "w": (6, 5), "head": (5, 3)}
TOWERS, JOINT = {"left": (3, 4), "right": (3, 5)}, factors("w@0", (9,), ("unit",))
HEAD_ROWS = exchange(factors("params/layers_5/kernel@0", (3, 5), (ALL, "unit")), {"unit": 0}, {"unit": 4})

CASES: dict[str, Case] = {
    "gpt2": Case(
        given(IDS, GPT2()),
        (2, 2, 4, 4, 4, 4, 8, 16, 16),
        "One stream, which the tied embedding reads out (the vocabulary is fixed). Each block: heads, with "
        "query-key units and value units (both nested), hidden units.",
        (4, 4, 4, 4),
        (
            *attention_moves([], factors("proj/kernel@0"), C_ATTN, at="params/h_0_"),
            on(16, "fc/kernel@1 fc/bias@0 down/kernel@0", "params/h_1_"),
            on(8, GPT2_STREAM, "params/"),
        ),
    ),
    "llama": Case(
        given(IDS, llama, LLAMA),
        (2, 3, 4, 8, 12),
        "Key-value heads; nested in them the three query heads of each, and the value units. RoPE turns "
        "each query-key pair at its own frequency: no group there.",
        (3, 4),
        (
            exchange([*LLAMA_Q, *LLAMA_O, *factors("k@1 v@1")], {"head": 0}, {"head": 1}),
            exchange([*LLAMA_Q, *LLAMA_O], {"head": 0, "query": 0}, {"head": 0, "query": 2}),
            exchange([*LLAMA_O, *factors("v@1")], {"head": 1, "unit": 0}, {"head": 1, "unit": 3}),
            on(8, "embed@1 norm_1@0 norm_2@0 norm_3@0 q@0 k@0 v@0 o@1 gate@0 up@0 down@1 head@0"),
            on(12, "gate@1 up@1 down@0"),
        ),
    ),
    "t5_encoder": Case(
        given(IDS, t5_encoder, T5 | {"bias": (7, 2), "up": (6, 10), "down": (10, 6), "head": (6, 3)}),
        (2, 4, 4, 6, 10),
        "The table of position biases [buckets, heads] carries the heads too; buckets are fixed.",
        (4, 4),
        (
            *attention_moves(factors("q@1 k@1"), factors("v@1 o@0"), factors("bias@1", (2,), ("head",))),
            on(6, T5_STREAM + " up@0 down@1 head@0"),
            on(10, "up@1 down@0"),
        ),
    ),
    "vanilla_rnn": Case(
        of_function(vanilla_rnn, RNN, (2, 5, 3)),
        (6,),
        "One hidden state, tied over time by the loop; its learned start carries it as well.",
        moves=(on(6, "w@1 u@0 u@1 b@0 h0@0 head@0"),),
    ),
    "moe_dense": Case(of_function(functools.partial(moe, route=jax.nn.softmax), MOE, (2, 5, 3)), *MOE_CASE),
    "moe_top_k": Case(of_function(functools.partial(moe, route=top_2), MOE, (2, 5, 3)), *MOE_CASE),
    "moe_top_k_dispatch": Case(of_function(moe_dispatch, MOE, (2, 5, 3)), *MOE_CASE),
    "loops": Case(
        of_function(loops, LOOPS, (4, 3)),
        (5, 6, 7),
        "The state of the while loop, tied from turn to turn; the hidden units of each branch of the cond.",
        moves=(on(6, "embed@1 w@0 w@1 b@0 a@0 d@0"), on(5, "a@1 c@0"), on(7, "d@1 e@0")),
    ),
    "lora": Case(
        of_function(lora, LORA, (4, 3)),
        (2, 3, 6),
        "The hidden units, carried by W and B below and by W and A above; the rank axis of each product A B.",
        moves=(on(6, "w_1@1 b_1@1 w_2@0 a_2@0"), on(2, "a_1@1 b_1@0"), on(3, "a_2@1 b_2@0")),
    ),
    "conv1d": Case(
        of_module(nn.Sequential(CONV1D), (2, 5, 3)),
        (5, 6),
        "The channels of both convolutions; the second's stand once per position in the head's rows.",
        moves=(
            on(6, "0/kernel@2 0/bias@0 2/kernel@1", "params/layers_"),
            join(on(5, "2/kernel@2 2/bias@0", "params/layers_"), HEAD_ROWS),
        ),
    ),
    "embedding_bag": Case(
        given(IDS, lambda p, ids: nn.relu(p["embed"][ids].mean(axis=1) @ p["w"]) @ p["head"], BAG),
        (5, 6),
        "The embedding's width, which the mean over tokens keeps; the hidden layer. The vocabulary is fixed.",
        moves=(on(6, "embed@1 w@0"), on(5, "w@1 head@0")),
    ),
    "two_inputs_dict": Case(
        given(dict(zip(("left", "right"), PAIR)), towers, TOWERS | {"w": (9, 6), "head": (6, 3)}),
        (4, 5, 6),
        "Two towers side by side, never mixed: two groups, one after the other in the joint layer's rows.",
        moves=(
            join(on(4, "left@1"), exchange(JOINT, {"unit": 0}, {"unit": 3})),
            join(on(5, "right@1"), exchange(JOINT, {"unit": 4}, {"unit": 8})),
            on(6, "w@1 head@0"),
        ),
    ),
    "two_inputs_tuple": Case(
        given(PAIR, lambda p, x: (jnp.tanh(x[0] @ p["a"]) * (x[1] @ p["b"])) @ p["c"], GATED),
        (5,),
        "The two towers are multiplied unit by unit: one group.",
        moves=(on(5, "a@1 b@1 c@0"),),
    ),
}
