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
ROWS = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
ALL = slice(None)
Place: TypeAlias = tuple[str, int | None, tuple[int, ...], tuple[Any, ...]]


def given(x: Any, net: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> Make:
    """Make a linen module, or a function of leaves with these shapes, whose inputs are `x`."""

    def make():
        inputs = jax.tree.map(jnp.asarray, x)
        if shapes is None:
            return net.apply, randomise(jax.eval_shape(net.init, jax.random.key(0), inputs)), inputs
        return *of_function(net, shapes)()[:2], inputs

    return make


def on(index: np.ndarray, places: str, at: str = "") -> Move:
    """Write one index at several places `path@axis`, all below `at`."""
    return tie(index, *(at + place for place in places.split()))


def factors(
    places: str, shape: tuple[int, ...] = (2, 4), where: tuple[Any, ...] = ("head", "unit")
) -> list[Place]:
    """Say that places `path@axis` (`path@`: the whole leaf) have these factors, and which are which."""
    split = (place.rpartition("@") for place in places.split())
    return [(path, int(axis) if axis else None, shape, where) for path, _, axis in split]


def exchange(places: Sequence[Place], at: str, i: dict[str, int], j: dict[str, int]) -> Move:
    """Exchange what stands at the factors `i` and `j` of every place; factors not named: all of them."""
    moves = []
    for path, axis, shape, where in places:
        index = np.arange(math.prod(shape)).reshape(shape)
        one, other = (tuple(k.get(f, ALL) if isinstance(f, str) else f for f in where) for k in (i, j))
        index[one], index[other] = index[other].copy(), index[one].copy()
        moves.append({at + path: ((axis, index if axis is None else index.ravel()),)})
    return join(*moves)


def attention_moves(
    qk: list[Place], v: list[Place], rest: Sequence[Place] = (), at: str = ""
) -> tuple[Move, ...]:
    """Exchange whole heads; two query-key units inside head 1 only; two value units inside head 0 only."""
    return (
        exchange([*qk, *v, *rest], at, {"head": 0}, {"head": 1}),
        exchange(qk, at, {"head": 1, "unit": 0}, {"head": 1, "unit": 2}),
        exchange(v, at, {"head": 0, "unit": 1}, {"head": 0, "unit": 2}),
    )


def split_heads(h, num):
    return h.reshape(*h.shape[:2], num, -1)


def attend(q, k, v, bias=0.0):
    """Attention over [batch, tokens, heads, units]; the heads come back side by side."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores + bias, axis=-1), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def causal(length):
    return jnp.where(jnp.tril(jnp.ones((length, length), bool)), 0.0, -1e9)


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
            h = h + nn.Dense(8, name=f"h_{i}_proj")(attend(q, k, v, causal(5)))
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
    q, k, v = rope(split_heads(n @ p["q"], 6)), rope(split_heads(n @ p["k"], 2)), split_heads(n @ p["v"], 2)
    h = h + attend(q, jnp.repeat(k, 3, axis=2), jnp.repeat(v, 3, axis=2), causal(5)) @ p["o"]
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


def t5_decoder(p, x):
    source, target = p["embed"][x["source"]], p["embed"][x["target"]]
    n, memory = rms(p["norm_1"], target), rms(p["norm_2"], source)
    q, k, v = (split_heads(a @ p[name], 2) for a, name in ((n, "q"), (memory, "k"), (memory, "v")))
    return rms(p["norm_3"], target + attend(q, k, v) @ p["o"]) @ p["embed"].T


def lstm_fused(p, x):
    def step(carry, x_t):
        i, f, g, o = jnp.split(x_t @ p["w"] + carry[0] @ p["u"] + p["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, (jnp.zeros((2, 6)), jnp.zeros((2, 6))), x.swapaxes(0, 1))[1] @ p["head"]


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
    one, other = (lambda h: jax.nn.relu(h @ p["a"]) @ p["c"]), (lambda h: jax.nn.silu(h @ p["d"]) @ p["e"])
    return jax.lax.cond(h.mean() > 0, one, other, h)


def lora(p, x):
    h = jax.nn.relu(x @ (p["w_1"] + 0.5 * p["a_1"] @ p["b_1"]))
    return h @ p["w_2"] + 0.5 * (h @ p["a_2"]) @ p["b_2"]


def towers(p, x):
    both = jnp.concatenate([jnp.tanh(x["left"] @ p["a"]), jnp.tanh(x["right"] @ p["b"])], axis=-1)
    return jax.nn.relu(both @ p["w"]) @ p["head"]


CONV1D = [nn.Conv(6, (3,)), nn.relu, nn.Conv(5, (3,), 2), nn.relu, lambda h: h.reshape(2, -1), nn.Dense(3)]
GPT2_BLOCK = (
    "ln_1/scale@0 ln_1/bias@0 attn/kernel@0 proj/kernel@1 proj/bias@0 ln_2/scale@0 ln_2/bias@0 fc/kernel@0"
)
GPT2_STREAM = [
    f"h_{i}_{place}" for i in range(2) for place in (*GPT2_BLOCK.split(), "down/kernel@1", "down/bias@0")
]
C_ATTN, QK, V = "attn/kernel@1 attn/bias@0", (slice(2), "head", "unit"), (2, "head", "unit")
T5 = {"embed": (11, 6), "q": (6, 8), "k": (6, 8), "v": (6, 8), "o": (8, 6)} | dict.fromkeys(NORMS, (6,))
T5_STREAM = "embed@1 norm_1@0 norm_2@0 norm_3@0 q@0 k@0 v@0 o@1"
LLAMA = {"embed": (11, 8), "q": (8, 24), "k": (8, 8), "v": (8, 8), "o": (24, 8)} | dict.fromkeys(NORMS, (8,))
LLAMA |= {"gate": (8, 12), "up": (8, 12), "down": (12, 8), "head": (8, 11)}
KV, GROUPED = factors("v@1", (2, 4), ("head", "unit")), factors("o@0", (2, 3, 4), ("head", "query", "unit"))
MOE = {"embed": (3, 6), "router": (6, 4), "up": (4, 6, 5), "bias": (4, 5), "down": (4, 5, 6), "head": (6, 3)}
MOE_HIDDEN = factors("up@", (4, 6, 5), ("expert", ALL, "unit")) + factors("bias@", (4, 5), ("expert", "unit"))
MOE_HIDDEN += factors("down@", (4, 5, 6), ("expert", "unit", ALL))
MOE_CASE = (
    (4, 5, 6),
    "Experts: router columns and leading axis of the expert weights. Each has hidden units of its own (nested). "
    "One stream: the embedding plus what the experts add.",
    (5,),
    (
        on(swap(4, 0, 3), "router@1 up@0 bias@0 down@0"),
        exchange(MOE_HIDDEN, "", {"expert": 2, "unit": 0}, {"expert": 2, "unit": 4}),
        on(swap(6, 0, 5), "embed@1 router@0 up@1 down@2 head@0"),
    ),
)

CASES: dict[str, Case] = {
    "mlp": Case(
        of_module(nn.Sequential([nn.Dense(6), nn.gelu, nn.Dense(5), jnp.tanh, nn.Dense(3)]), (4, 3)),
        (5, 6),
        "Two hidden layers; the inputs and the last layer's outputs are fixed.",
        moves=(
            on(swap(6, 0, 3), "0/kernel@1 0/bias@0 2/kernel@0", "params/layers_"),
            on(swap(5, 0, 3), "2/kernel@1 2/bias@0 4/kernel@0", "params/layers_"),
        ),
    ),
    "conv1d": Case(
        of_module(nn.Sequential(CONV1D), (2, 5, 3)),
        (5, 6),
        "The channels of each convolution; the second's stand once per (fixed) position in the rows of the head.",
        moves=(
            on(swap(6, 0, 3), "0/kernel@2 0/bias@0 2/kernel@1", "params/layers_"),
            on(swap(5, 0, 3), "2/kernel@2 2/bias@0", "params/layers_")
            | on(tiled(swap(5, 0, 3), 3), "params/layers_5/kernel@0"),
        ),
    ),
    "gpt2": Case(
        given(IDS, GPT2()),
        (2, 2, 4, 4, 4, 4, 8, 16, 16),
        "One stream through embedding (also the output projection), positions, blocks and norms. Each block: heads, "
        "query-key units and value units nested in them, hidden units.",
        (4, 4, 4, 4),
        (
            *attention_moves(
                factors(C_ATTN, (3, 2, 4), QK),
                factors(C_ATTN, (3, 2, 4), V) + factors("proj/kernel@0"),
                at="params/h_0_",
            ),
            on(swap(16, 0, 9), "fc/kernel@1 fc/bias@0 down/kernel@0", "params/h_1_"),
            on(
                swap(8, 2, 5),
                " ".join([*GPT2_STREAM, "wte/embedding@1 wpe@1 ln_f/scale@0 ln_f/bias@0"]),
                "params/",
            ),
        ),
    ),
    "llama": Case(
        given(IDS, llama, LLAMA),
        (2, 3, 4, 8, 12),
        "Key-value heads; nested in them the three query heads that share each, and the value units. RoPE turns "
        "each query-key pair at its own frequency: no group there.",
        (3, 4),
        (
            exchange([*LLAMA_QUERY, *LLAMA_VALUE, *factors("k@1")], "", {"head": 0}, {"head": 1}),
            exchange(LLAMA_QUERY, "", {"head": 0, "query": 0}, {"head": 0, "query": 2}),
            exchange(LLAMA_VALUE, "", {"head": 1, "unit": 0}, {"head": 1, "unit": 3}),
            on(swap(8, 0, 6), "embed@1 norm_1@0 norm_2@0 norm_3@0 q@0 k@0 v@0 o@1 gate@0 up@0 down@1 head@0"),
            on(swap(12, 1, 7), "gate@1 up@1 down@0"),
        ),
    ),
    "t5_encoder": Case(
        given(IDS, t5_encoder, T5 | {"bias": (7, 2), "up": (6, 10), "down": (10, 6), "head": (6, 3)}),
        (2, 4, 4, 6, 10),
        "The table of position biases [buckets, heads] carries the heads too; buckets are fixed.",
        (4, 4),
        (
            *attention_moves(factors("q@1 k@1"), factors("v@1 o@0"), factors("bias@1", (2,), ("head",))),
            on(swap(6, 0, 5), T5_STREAM + " up@0 down@1 head@0"),
            on(swap(10, 0, 5), "up@1 down@0"),
        ),
    ),
    "t5_decoder": Case(
        given({"source": IDS, "target": IDS[:, ::-1][:, :3]}, t5_decoder, T5),
        (2, 4, 4, 6),
        "Source, target and logits share one embedding: one stream for both sides of the cross attention.",
        (4, 4),
        (*attention_moves(factors("q@1 k@1"), factors("v@1 o@0")), on(swap(6, 0, 5), T5_STREAM)),
    ),
    "lstm_fused": Case(
        of_function(lstm_fused, {"w": (3, 24), "u": (6, 24), "b": (24,), "head": (6, 3)}, (2, 5, 3)),
        (6,),
        "Hidden and cell state are one group, on the rows of u and in all four gate blocks of w, u and b.",
        moves=(join(on(tiled(swap(6, 1, 4), 4), "w@1 u@1 b@0"), on(swap(6, 1, 4), "u@0 head@0")),),
    ),
    "vanilla_rnn": Case(
        of_function(
            vanilla_rnn, {"w": (3, 6), "u": (6, 6), "b": (6,), "h0": (6,), "head": (6, 3)}, (2, 5, 3)
        ),
        (6,),
        "One hidden state, tied over time by the loop; its learned start carries it as well.",
        moves=(on(swap(6, 1, 4), "w@1 u@0 u@1 b@0 h0@0 head@0"),),
    ),
    "moe_dense": Case(of_function(functools.partial(moe, route=jax.nn.softmax), MOE, (2, 5, 3)), *MOE_CASE),
    "moe_top_k": Case(of_function(functools.partial(moe, route=top_2), MOE, (2, 5, 3)), *MOE_CASE),
    "moe_top_k_dispatch": Case(of_function(moe_dispatch, MOE, (2, 5, 3)), *MOE_CASE),
    "loops": Case(
        of_function(
            loops,
            {"embed": (3, 6), "w": (6, 6), "b": (6,), "a": (6, 5), "c": (5, 3), "d": (6, 7), "e": (7, 3)},
        ),
        (5, 6, 7),
        "The state of the while loop, tied from turn to turn; the hidden units of each branch of the cond.",
        moves=(
            on(swap(6, 1, 4), "embed@1 w@0 w@1 b@0 a@0 d@0"),
            on(swap(5, 1, 4), "a@1 c@0"),
            on(swap(7, 1, 4), "d@1 e@0"),
        ),
    ),
    "lora": Case(
        of_function(
            lora,
            {"w_1": (3, 6), "a_1": (3, 2), "b_1": (2, 6), "w_2": (6, 4), "a_2": (6, 3), "b_2": (3, 4)},
            (4, 3),
        ),
        (2, 3, 6),
        "The hidden units, carried by W and B below and by W and A above; the rank axis of each product A B.",
        moves=(
            on(swap(6, 1, 4), "w_1@1 b_1@1 w_2@0 a_2@0"),
            on(swap(2, 0, 1), "a_1@1 b_1@0"),
            on(swap(3, 0, 2), "a_2@1 b_2@0"),
        ),
    ),
    "embedding_bag": Case(
        given(IDS, lambda p, ids: jax.nn.relu(p["embed"][ids].mean(1) @ p["w"]) @ p["head"], BAG),
        (5, 6),
        "The embedding's width, which the mean over tokens keeps, and the hidden layer; the vocabulary is fixed.",
        moves=(on(swap(6, 1, 4), "embed@1 w@0"), on(swap(5, 1, 4), "w@1 head@0")),
    ),
    "two_inputs_dict": Case(
        given(
            {"left": ROWS, "right": ROWS[:, ::-1]},
            towers,
            {"a": (3, 4), "b": (3, 5), "w": (9, 6), "head": (6, 3)},
        ),
        (4, 5, 6),
        "Two towers side by side, never mixed: two groups, one after the other in the rows of the joint layer.",
        moves=(
            on(swap(4, 0, 2), "a@1") | on(swap(9, 0, 2), "w@0"),
            on(swap(5, 0, 2), "b@1") | on(swap(9, 4, 6), "w@0"),
            on(swap(6, 1, 4), "w@1 head@0"),
        ),
    ),
    "two_inputs_tuple": Case(
        given(
            (ROWS, ROWS[:, ::-1]),
            lambda p, x: (jnp.tanh(x[0] @ p["a"]) * jnp.tanh(x[1] @ p["b"])) @ p["head"],
            TUPLE,
        ),
        (5,),
        "The two towers are multiplied unit by unit: one group.",
        moves=(on(swap(5, 0, 2), "a@1 b@1 head@0"),),
    ),
}
